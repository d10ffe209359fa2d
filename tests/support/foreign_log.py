"""The CDNOW log: 69,659 purchases of 23,570 customers, which the package `lifetimes` ships for those
who model customers (Fader and Hardie, "Forecasting repeat sales at CDNOW", 2001).

`csv PATH` writes it as events; `answers` prints what pandas makes of the same rows, as JSON."""

import importlib.metadata
import json
import sys

import pandas


def log():
    files = importlib.metadata.files("lifetimes")
    (path,) = [file for file in files if file.name == "CDNOW_master.txt"]
    frame = pandas.read_csv(path.locate(), sep=r"\s+", dtype={"customer_id": str, "date": str})
    assert len(frame) == 69_659, len(frame)
    # It knows days only: spread over them, so that time zones differ.
    seconds = pandas.to_timedelta([row * 7919 % 86_400 for row in range(len(frame))], unit="s")
    frame["timestamp"] = pandas.to_datetime(frame["date"], format="%Y%m%d", utc=True) + seconds
    sizes = pandas.cut(frame["number_of_cds"], [0, 1, 3, 10_000], labels=["one", "few", "many"])
    frame["event_type"] = sizes.astype(str)
    return frame


def csv(path):
    frame = log()
    frame["event_id"] = frame.index
    frame["tenant_id"] = "cdnow"
    frame["user_id"] = frame["customer_id"]
    frame["payload"] = [
        json.dumps({"cds": cds, "paid": {"dollars": dollars}})
        for cds, dollars in zip(frame["number_of_cds"].tolist(), frame["dollar_value"].tolist())
    ]
    frame["timestamp"] = frame["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    columns = ["event_id", "tenant_id", "timestamp", "event_type", "user_id", "payload"]
    # Late ones first, so that order has no say.
    frame[columns].iloc[::-1].to_csv(path, index=False)


def active(frame, days, first, last, zone):
    local = frame["timestamp"].dt.tz_convert(zone).dt.tz_localize(None).dt.normalize()
    answer = []
    for date in pandas.date_range(first, last):
        window = (local > date - pandas.Timedelta(days=days)) & (local <= date)
        answer.append([str(date.date()), int(frame.loc[window, "user_id"].nunique())])
    return answer


def by_bucket(frame, frequency, first, last):
    part = frame[(frame["timestamp"] >= first) & (frame["timestamp"] < last)]
    groups = part.groupby(part["timestamp"].dt.floor(frequency))
    return [
        [start.strftime("%Y-%m-%dT%H:%M:%S"), len(group), int(group["user_id"].nunique())]
        for start, group in groups
    ]


def top(frame):
    groups = frame.groupby("event_type")
    rows = [[name, len(group), int(group["user_id"].nunique())] for name, group in groups]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def retention(frame, start, windows, days):
    day = frame["timestamp"].dt.tz_localize(None).dt.normalize()
    window = (day - pandas.Timestamp(start)).dt.days // days
    frame = frame.assign(window=window)
    first = frame.groupby("user_id")["window"].min()
    frame = frame.assign(cohort=frame["user_id"].map(first))
    return [
        [
            int(frame[(frame["cohort"] == cohort) & (frame["window"] == cohort + k)]["user_id"].nunique())
            for k in range(windows)
        ]
        for cohort in range(windows)
    ]


def answers():
    frame = log().rename(columns={"customer_id": "user_id"})
    pairs = frame[frame["number_of_cds"] == 2]
    print(json.dumps({
        "dau": active(frame, 1, "1997-03-25", "1997-04-20", "UTC"),
        "dau_new_york": active(frame, 1, "1997-03-25", "1997-04-20", "America/New_York"),
        "wau": active(frame, 7, "1997-03-25", "1997-04-20", "UTC"),
        "mau_kathmandu": active(frame, 30, "1997-03-25", "1997-04-20", "Asia/Kathmandu"),
        "dau_of_two": active(pairs, 1, "1997-03-25", "1997-04-20", "UTC"),
        "days": by_bucket(frame, "D", "1997-01-01", "1998-07-01"),
        "minutes": by_bucket(frame, "min", "1997-02-01", "1997-02-03"),
        "top": top(frame),
        "weekly": retention(frame, "1997-01-01", 12, 7),
        "daily": retention(frame, "1997-01-01", 30, 1),
        "few_weekly": retention(frame[frame["event_type"] == "few"], "1997-01-01", 8, 7),
    }))


if sys.argv[1] == "csv":
    csv(sys.argv[2])
else:
    answers()
