//! Against values that `serde_json` makes of the same text.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn path(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

fn at<'a>(json: &'a str, keys: &str) -> Option<Scalar<'a>> {
    scalar(json, &path(keys))
}

fn text(text: &str) -> Scalar<'_> {
    Scalar::Text(text.into())
}

#[test]
fn a_path_leads_to_a_scalar() {
    let json = r#" { "a" : { "b" : [ 1 , "two" , { "c" : null } ] , "" : true } ,"d":-1.5e3} "#;
    assert_eq!(at(json, "a.b.0"), Some(Scalar::Number("1")));
    assert_eq!(at(json, "a.b.1"), Some(text("two")));
    assert_eq!(at(json, "a.b.2.c"), Some(Scalar::Word("null")));
    assert_eq!(at(json, "a."), Some(Scalar::Word("true")));
    assert_eq!(at(json, "d"), Some(Scalar::Number("-1.5e3")));
    for none in [
        "a", "a.b", "a.b.2", "a.b.3", "a.b.00", "a.b.-1", "a.b.x", "d.e", "x", "b",
    ] {
        assert_eq!(at(json, none), None, "{none}");
    }
    assert_eq!(at("{}", "a"), None);
    assert_eq!(at(r#"{"a":[]}"#, "a.0"), None);
    assert_eq!(at(r#"{"a":{"0":7}}"#, "a.0"), Some(Scalar::Number("7")));
}

#[test]
fn of_equal_keys_the_last_one_counts() {
    assert_eq!(at(r#"{"a":1,"a":2}"#, "a"), Some(Scalar::Number("2")));
    assert_eq!(at(r#"{"a":{"b":1},"a":5}"#, "a.b"), None);
    assert_eq!(at(r#"{"a":1,"\u0061":"x"}"#, "a"), Some(text("x")));
}

#[test]
fn escapes_are_read() {
    let json = r#"{"q\"}":"a\"}{","\u0434":"\ud83d\ude00 \\ \/ \n"}"#;
    assert_eq!(at(json, "q\"}"), Some(text("a\"}{")));
    assert_eq!(at(json, "д"), Some(text("\u{1f600} \\ / \n")));
    let lone = r#"{"a":"\ud800"}"#;
    assert_eq!(at(lone, "a"), None, "half a character is no text");
}

#[test]
fn a_name_with_escapes_is_not_the_key_that_it_looks_like() {
    let json = r#"{"\\\"":null,"\"":false}"#;
    assert_eq!(at(json, "\\\""), Some(Scalar::Word("null")));
    assert_eq!(at(json, "\""), Some(Scalar::Word("false")));
    assert_eq!(at(r#"{"\"":1}"#, "\\\""), None);
}

#[test]
fn a_value_is_matched_whatever_way_it_is_written() {
    let matches = |keys: &str, value: &str, json: &str| {
        Matcher::new(path(keys), value.to_owned()).matches(json)
    };
    assert!(matches("a", "UA", r#"{"a":"UA"}"#));
    assert!(matches("a", "UA", r#"{"\u0061":"\u0055A"}"#));
    assert!(!matches("a", "UA", r#"{"a":"ua","b":"UA"}"#));
    assert!(!matches("a", "UA", r#"{"a":["UA"]}"#));
    for json in [r#"{"a":1}"#, r#"{"a":1.0}"#, r#"{"a":1e0}"#, r#"{"a":"1"}"#] {
        assert!(matches("a", "1", json), "{json}");
    }
    assert!(matches("a", "1.0", r#"{"a":1}"#));
    assert!(!matches("a", "1", r#"{"a":"1.0"}"#), "a string is its text");
    assert!(matches("a.0", "true", r#"{"a":[true]}"#));
    assert!(matches("a", "null", r#"{"a":null}"#));
    assert!(matches("a", "true", r#"{"a":"true"}"#));
    assert!(!matches("a", "True", r#"{"a":true}"#));
    assert!(!matches("a", "null", "{}"), "what is absent is not null");
    assert!(matches("a", "", r#"{"a":""}"#));
    assert!(matches(
        "a",
        "1e99999999999999999999",
        r#"{"a":1e99999999999999999999}"#
    ));
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab01]", 1 => "[\"\\\\a\u{e9}\u{1f600}\n/]{0,3}"]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i8..3).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ab\"\\\\{}\\[\\],:\u{e9}\u{1f600}\n ]{0,6}".prop_map(Value::from),
    ]
}

/// JSON text in many ways of writing it, with keys that repeat.
fn written() -> impl Strategy<Value = String> {
    let leaf = (leaf(), any::<bool>()).prop_map(|(value, escaped)| write(&value, escaped));
    let inner = leaf.prop_recursive(4, 40, 5, |inner| {
        let gap = prop::sample::select(vec!["", " ", "\n\t "]);
        let member = (key(), any::<bool>(), inner.clone());
        prop_oneof![
            (prop::collection::vec(inner, 0..5), gap.clone()).prop_map(|(of, gap)| {
                let of = of.join(&format!("{gap},{gap}"));
                format!("[{gap}{of}{gap}]")
            }),
            object(member, gap),
        ]
    });
    let gap = prop::sample::select(vec!["", " "]);
    object((key(), any::<bool>(), inner), gap)
}

fn object(
    member: impl Strategy<Value = (String, bool, String)>,
    gap: impl Strategy<Value = &'static str>,
) -> impl Strategy<Value = String> {
    (prop::collection::vec(member, 0..5), gap).prop_map(|(of, gap)| {
        let of: Vec<String> = of
            .into_iter()
            .map(|(key, escaped, value)| {
                let key = write(&Value::from(key), escaped);
                format!("{key}{gap}:{gap}{value}")
            })
            .collect();
        format!("{{{gap}{}{gap}}}", of.join(&format!("{gap},{gap}")))
    })
}

/// A value as text; a string with every character escaped, if asked for.
fn write(value: &Value, escaped: bool) -> String {
    match value {
        Value::String(text) if escaped => {
            let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
            format!("\"{}\"", units.collect::<String>())
        }
        value => value.to_string(),
    }
}

/// Every path of a value, and some that lead nowhere.
fn paths(value: &Value) -> Vec<Vec<String>> {
    let mut found = vec![Vec::new(), vec!["a".to_owned(), "0".to_owned()]];
    let below: Vec<(String, &Value)> = match value {
        Value::Object(of) => of.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(of) => (0..)
            .zip(of)
            .map(|(at, value)| (format!("{at}"), value))
            .collect(),
        _ => Vec::new(),
    };
    for (key, value) in below {
        for path in paths(value) {
            found.push(std::iter::once(key.clone()).chain(path).collect());
        }
    }
    found
}

fn value_at<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Object(of) => of.get(key),
        Value::Array(of) => of.get(index(key)?),
        _ => None,
    })
}

proptest! {
    #[test]
    fn what_is_found_is_what_a_value_has(json in written()) {
        let value: Value = serde_json::from_str(&json).unwrap();
        for path in paths(&value) {
            let found = scalar(&json, &path);
            let expected = value_at(&value, &path);
            match (&found, expected) {
                (None, None | Some(Value::Object(_) | Value::Array(_))) => {}
                (Some(Scalar::Text(found)), Some(Value::String(text))) => {
                    prop_assert_eq!(found, text);
                    prop_assert!(Matcher::new(path.clone(), text.clone()).matches(&json));
                }
                (Some(Scalar::Number(found)), Some(Value::Number(number))) => {
                    let read: Value = serde_json::from_str(found).unwrap();
                    prop_assert_eq!(&read, &Value::Number(number.clone()));
                    prop_assert!(Matcher::new(path.clone(), (*found).to_owned()).matches(&json));
                }
                (Some(Scalar::Word(found)), Some(Value::Bool(_) | Value::Null)) => {
                    prop_assert_eq!(*found, expected.unwrap().to_string());
                    prop_assert!(Matcher::new(path.clone(), (*found).to_owned()).matches(&json));
                }
                _ => prop_assert!(false, "{found:?} is not {expected:?} in {json} at {path:?}"),
            }
            prop_assert!(!Matcher::new(path, "nothing has this".to_owned()).matches(&json));
        }
    }

    #[test]
    fn any_text_ends(json in "[\\[\\]{}\",:\\\\a1 ]{0,40}", keys in "[a1.]{0,5}") {
        let _ = at(&json, &keys);
    }
}
