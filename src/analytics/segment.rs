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
const FORMS: &str = "must be such as event_type:purchase or properties.country=UA";

/// What a path may look like.
const PATHS: &str = "must be event_type, or such as properties.country";

impl Segment {
    /// Reads `event_type:purchase` (or `event_type=purchase`) and `properties.country=UA`
    /// (`payload.` means the same; more dots lead deeper). The first `=` ends the path. An error says
    /// what it must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let named = ["event_type:", "event_type="];
        if let Some(name) = named.iter().find_map(|it| text.strip_prefix(it)) {
            return if name.is_empty() {
                Err("must name an event type, such as event_type:purchase".to_owned())
            } else {
                Ok(Self::EventType(name.to_owned()))
            };
        }
        match text.split_once('=') {
            Some((path, value)) if is_property(path) => Ok(Self::Property {
                path: property_path(path)?,
                value: value.to_owned(),
            }),
            None if is_property(text) => {
                Err("must have a value, such as properties.country=UA".to_owned())
            }
            _ => Err(refusal(FORMS, text)),
        }
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
    /// Reads `event_type` or `properties.country` (`payload.` means the same). An error says what it
    /// must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "event_type" => Ok(Self::EventType),
            _ if is_property(text) => property_path(text).map(Self::Property),
            _ => Err(refusal(PATHS, text)),
        }
    }
}

fn is_property(text: &str) -> bool {
    text.starts_with("properties.") || text.starts_with("payload.")
}

/// The keys behind `properties.`.
fn property_path(text: &str) -> Result<Vec<String>, String> {
    let path: Vec<String> = text.split('.').skip(1).map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(format!(
            "must have no empty key in its path, as {text:?} has"
        ));
    }
    Ok(path)
}

/// What is said of `text`, which is none of the `forms`.
fn refusal(forms: &str, text: &str) -> String {
    let name = text.split([':', '=']).next().unwrap_or(text);
    match name {
        "tenant_id" | "source" => format!("{forms}; {name} is a parameter of its own"),
        _ => forms.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(path: &[&str], value: &str) -> Segment {
        Segment::Property {
            path: path.iter().map(ToString::to_string).collect(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn segments_are_read() {
        let purchase = Ok(Segment::EventType("purchase".to_owned()));
        assert_eq!(Segment::parse("event_type:purchase"), purchase);
        assert_eq!(Segment::parse("event_type=purchase"), purchase);
        let odd = Ok(Segment::EventType("a=b:c".to_owned()));
        assert_eq!(Segment::parse("event_type:a=b:c"), odd);
        let country = Ok(property(&["country"], "UA"));
        assert_eq!(Segment::parse("properties.country=UA"), country);
        assert_eq!(Segment::parse("payload.country=UA"), country);
        let deep = Ok(property(&["cart", "0", "a:b"], "x=1.5"));
        assert_eq!(Segment::parse("properties.cart.0.a:b=x=1.5"), deep);
        assert_eq!(Segment::parse("properties.a="), Ok(property(&["a"], "")));
        let key = Ok(property(&["properties"], "1"));
        assert_eq!(Segment::parse("properties.properties=1"), key);
    }

    #[test]
    fn what_is_no_segment_is_named() {
        for (text, says) in [
            (
                "",
                "must be such as event_type:purchase or properties.country=UA",
            ),
            ("purchase", FORMS),
            ("event_type", FORMS),
            ("event_type:", "must name an event type"),
            ("source:web", "; source is a parameter of its own"),
            ("tenant_id=a", "; tenant_id is a parameter of its own"),
            ("user_id:u", FORMS),
            ("country=UA", FORMS),
            ("properties=UA", FORMS),
            ("properties.country", "must have a value"),
            ("properties.country:UA", "must have a value"),
            ("properties..a=1", "must have no empty key"),
            ("properties.=1", "must have no empty key"),
            ("properties.a.=1", "must have no empty key"),
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
            ("source", "; source is a parameter of its own"),
            ("country", PATHS),
            ("properties", PATHS),
            ("properties.", "must have no empty key"),
        ] {
            let refused = SegmentPath::parse(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }
}
