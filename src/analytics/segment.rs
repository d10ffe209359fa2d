//! Parts of the events, as they are written in a query.

use super::property::Matcher;

/// A part of the events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Those of a type.
    EventType(String),
    /// Those whose payload has a scalar of this text at this path.
    Property {
        /// The keys that lead there; in an array, a key is an index from 0. Of equal keys of an
        /// object the last one counts.
        path: Vec<String>,
        /// A string has this text; a number the same decimal value (`1` is `1.0` is `1e0`); or
        /// `true`, `false`, `null`.
        value: String,
    },
}

/// What a segment may look like.
const FORMS: &str = "use event_type:purchase or properties.country=UA";

impl Segment {
    /// Reads `event_type:purchase` (or `event_type=purchase`) and `properties.country=UA`
    /// (`payload.` means the same; more dots lead deeper). The first `=` ends the path. An error is
    /// one sentence without its full stop.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(value) = text
            .strip_prefix("event_type:")
            .or_else(|| text.strip_prefix("event_type="))
        {
            return if value.is_empty() {
                Err(format!("{text:?} names no event type: {FORMS}"))
            } else {
                Ok(Self::EventType(value.to_owned()))
            };
        }
        let (name, value) = match text.split_once('=') {
            Some(parts) => parts,
            None => text.split_once(':').unwrap_or((text, "")),
        };
        if !is_property(name) {
            return Err(refusal(name));
        }
        if !text.contains('=') {
            return Err(format!("{text:?} has no value: {FORMS}"));
        }
        Ok(Self::Property {
            path: property_path(name)?,
            value: value.to_owned(),
        })
    }

    pub(super) fn matcher(&self) -> Option<Matcher> {
        match self {
            Self::EventType(_) => None,
            Self::Property { path, value } => Some(Matcher::new(path.clone(), value.clone())),
        }
    }
}

/// What the values of a segment are listed of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SegmentPath {
    /// The types.
    EventType,
    /// The scalars at this path of the payload.
    Property(Vec<String>),
}

impl SegmentPath {
    /// Reads `event_type` or `properties.country` (`payload.` means the same). An error is one
    /// sentence without its full stop.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "event_type" {
            return Ok(Self::EventType);
        }
        if is_property(text) {
            return property_path(text).map(Self::Property);
        }
        Err(match parameter(text) {
            Some(_) => refusal(text),
            None => format!("{text:?} is no path: use event_type or properties.country"),
        })
    }
}

fn is_property(name: &str) -> bool {
    name.starts_with("properties.") || name.starts_with("payload.")
}

/// The keys behind `properties.`.
fn property_path(name: &str) -> Result<Vec<String>, String> {
    let keys = name.split('.').skip(1).map(str::to_owned);
    let path: Vec<String> = keys.collect();
    if path.iter().any(String::is_empty) {
        return Err(format!("the path {name:?} has an empty key"));
    }
    Ok(path)
}

/// The parameter that says what a segment of this name would.
fn parameter(name: &str) -> Option<&'static str> {
    ["tenant_id", "source"].into_iter().find(|it| *it == name)
}

fn refusal(name: &str) -> String {
    match (parameter(name), name) {
        (Some(parameter), _) => {
            format!("{name} is no segment: use the parameter {parameter} for it")
        }
        (None, "properties" | "payload") => {
            format!("{name} names no key: {FORMS}")
        }
        (None, _) => format!("{name:?} is no segment: {FORMS}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(path: &[&str], value: &str) -> Result<Segment, String> {
        Ok(Segment::Property {
            path: path.iter().map(ToString::to_string).collect(),
            value: value.to_owned(),
        })
    }

    #[test]
    fn segments_are_read() {
        let purchase = Ok(Segment::EventType("purchase".to_owned()));
        assert_eq!(Segment::parse("event_type:purchase"), purchase);
        assert_eq!(Segment::parse("event_type=purchase"), purchase);
        let odd = Ok(Segment::EventType("a=b:c".to_owned()));
        assert_eq!(Segment::parse("event_type:a=b:c"), odd);
        let country = property(&["country"], "UA");
        assert_eq!(Segment::parse("properties.country=UA"), country);
        assert_eq!(Segment::parse("payload.country=UA"), country);
        let deep = property(&["cart", "0", "a:b"], "x=1.5");
        assert_eq!(Segment::parse("properties.cart.0.a:b=x=1.5"), deep);
        assert_eq!(Segment::parse("properties.a="), property(&["a"], ""));
        let key = property(&["properties"], "1");
        assert_eq!(Segment::parse("properties.properties=1"), key);
    }

    #[test]
    fn what_is_no_segment_is_named() {
        for (text, says) in [
            ("", "\"\" is no segment: use event_type:purchase"),
            ("purchase", "\"purchase\" is no segment: use event_type"),
            ("event_type:", "names no event type"),
            ("source:web", "use the parameter source for it"),
            ("tenant_id=a", "use the parameter tenant_id for it"),
            ("user_id:u", "\"user_id\" is no segment"),
            ("country=UA", "\"country\" is no segment"),
            ("properties=UA", "properties names no key"),
            ("properties.country", "has no value"),
            ("properties.country:UA", "has no value"),
            ("properties..a=1", "has an empty key"),
            ("properties.=1", "has an empty key"),
            ("properties.a.=1", "has an empty key"),
        ] {
            let refused = Segment::parse(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }

    #[test]
    fn paths_of_values_are_read() {
        assert_eq!(SegmentPath::parse("event_type"), Ok(SegmentPath::EventType));
        let deep = SegmentPath::Property(vec!["a".to_owned(), "b=c".to_owned()]);
        assert_eq!(SegmentPath::parse("properties.a.b=c"), Ok(deep));
        for (text, says) in [
            ("source", "use the parameter source"),
            ("country", "is no path"),
            ("properties", "is no path"),
            ("properties.", "has an empty key"),
        ] {
            let refused = SegmentPath::parse(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }
}
