//! Cohorts as a triangle: a row each, and their windows side by side.

use serde::Deserialize;

use crate::cli::table::{Table, Wide};

#[derive(Deserialize)]
struct Retention {
    cohorts: Vec<Cohort>,
}

#[derive(Deserialize)]
struct Cohort {
    #[serde(rename = "cohort_start")]
    start: String,
    size: u64,
    retained: Vec<u64>,
    rates: Vec<f64>,
    complete: Vec<bool>,
}

/// The triangle for people; for CSV a row for each cohort and window.
pub(super) fn table(text: &str) -> Result<Table, serde_json::Error> {
    let Retention { cohorts } = serde_json::from_str(text)?;
    let mut table = Table::new(&[
        "cohort_start",
        "size",
        "window",
        "retained",
        "rate",
        "complete",
    ]);
    for cohort in &cohorts {
        let windows = cohort
            .retained
            .iter()
            .zip(&cohort.rates)
            .zip(&cohort.complete);
        for (window, ((retained, rate), complete)) in windows.enumerate() {
            table.row([
                cohort.start.clone(),
                cohort.size.to_string(),
                window.to_string(),
                retained.to_string(),
                rate.to_string(),
                complete.to_string(),
            ]);
        }
    }
    let (triangle, goes_on) = triangle(&cohorts);
    let table = table.with_wide(triangle);
    Ok(if goes_on {
        table.with_note("* this window has not ended")
    } else {
        table
    })
}

/// The rows, and whether a window of them has not ended.
fn triangle(cohorts: &[Cohort]) -> (Wide, bool) {
    let windows = cohorts.iter().map(|it| it.retained.len()).max();
    let mut header = vec!["cohort".to_owned(), "size".to_owned()];
    header.extend((0..windows.unwrap_or(0)).map(|window| window.to_string()));
    let rows: Vec<Vec<String>> = cohorts.iter().map(Cohort::row).collect();
    let goes_on = rows.iter().flatten().any(|text| text.ends_with('*'));
    (Wide { header, rows }, goes_on)
}

impl Cohort {
    fn row(&self) -> Vec<String> {
        let mut row = vec![self.start.clone(), self.size.to_string()];
        let mut begun = true;
        let windows = self.retained.iter().zip(&self.rates).zip(&self.complete);
        for ((retained, rate), complete) in windows {
            // Events may be ahead of the clock.
            row.push(if begun || *retained > 0 {
                let mark = if *complete { " " } else { "*" };
                if self.size > 0 {
                    format!("{:.1}%{mark}", rate * 100.0)
                } else {
                    format!("-{mark}")
                }
            } else {
                String::new()
            });
            begun = *complete;
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"window_type": "daily", "cohorts": [
        {"cohort_start": "2026-11-19", "size": 3, "retained": [3, 1, 2],
            "rates": [1.0, 0.333333333, 0.666666667], "complete": [true, true, false]},
        {"cohort_start": "2026-11-20", "size": 0, "retained": [0, 0, 0],
            "rates": [0.0, 0.0, 0.0], "complete": [true, false, false]},
        {"cohort_start": "2026-11-21", "size": 1, "retained": [1, 0, 1],
            "rates": [1.0, 0.0, 1.0], "complete": [false, false, false]}]}"#;

    #[test]
    fn windows_that_have_not_begun_are_empty() {
        let table = table(ANSWER).unwrap();
        let expected = "\
cohort      size        0       1        2
2026-11-19     3  100.0%   33.3%    66.7%*
2026-11-20     0       -       -*
2026-11-21     1  100.0%*          100.0%*
";
        assert_eq!(table.text(None), expected);
        assert_eq!(table.note(None).unwrap(), "* this window has not ended");
    }

    #[test]
    fn csv_has_a_row_for_each_window() {
        let csv = table(ANSWER).unwrap().csv();
        assert!(csv.starts_with(
            "cohort_start,size,window,retained,rate,complete\n2026-11-19,3,0,3,1,true\n\
             2026-11-19,3,1,1,0.333333333,true\n"
        ));
        assert_eq!(csv.lines().count(), 10);
    }
}
