//! What is wrong with which value of a request.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Serialize;

/// The most offences that are listed in one answer; the others are counted.
const MAX_LISTED: usize = 100;

/// The most bytes of a client's own text that an answer repeats.
const MAX_SHOWN: usize = 64;

/// One bad value: where it is, and what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ProblemError, example = json!({"pointer": "/ids/3", "detail": "must be an integer, and is a string", "code": "wrong_type"}))]
pub struct Offence {
    /// RFC 6901 pointer into the body; empty for the body as a whole, and where the value is in
    /// no body.
    pointer: String,
    /// What is wrong, in words.
    detail: String,
    /// What is wrong, for programs.
    code: &'static str,
    /// The query parameter it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    parameter: Option<Cow<'static, str>>,
    /// The header it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'static str>,
}

impl Offence {
    /// A bad query parameter.
    #[must_use]
    pub fn in_parameter(name: &'static str, detail: String) -> Self {
        Self {
            pointer: String::new(),
            detail,
            code: "invalid_parameter",
            parameter: Some(Cow::Borrowed(name)),
            header: None,
        }
    }

    /// A query parameter that is not known; a long name is cut.
    #[must_use]
    pub fn unknown_parameter(name: &str, detail: String) -> Self {
        Self {
            pointer: String::new(),
            detail,
            code: "unknown_parameter",
            parameter: Some(Cow::Owned(cut(name).to_owned())),
            header: None,
        }
    }

    /// A bad header.
    #[must_use]
    pub fn in_header(name: &'static str, detail: String) -> Self {
        Self {
            pointer: String::new(),
            detail,
            code: "invalid_header",
            parameter: None,
            header: Some(name),
        }
    }

    /// Where it is in the body.
    #[must_use]
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The query parameter it is in.
    #[must_use]
    pub fn parameter(&self) -> Option<&str> {
        self.parameter.as_deref()
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// All offences of a request: the first 100, and how many there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offences {
    listed: Vec<Offence>,
    count: u64,
}

impl Offences {
    /// Notes that the value at `path` (keys or indexes, from the root) is bad.
    /// The closure is not called once the list is full.
    pub fn add(&mut self, path: &[&str], code: &'static str, detail: impl FnOnce() -> String) {
        self.count += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(Offence {
                pointer: pointer(path),
                detail: detail(),
                code,
                parameter: None,
                header: None,
            });
        }
    }

    /// Takes over what is wrong with a part of the request; `prefix` is the pointer to that part.
    pub fn absorb(&mut self, prefix: &str, part: &Self) {
        self.count += part.count;
        let room = MAX_LISTED - self.listed.len();
        self.listed.extend(part.listed.iter().take(room).map(|it| {
            let mut it = it.clone();
            it.pointer.insert_str(0, prefix);
            it
        }));
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first 100.
    #[must_use]
    pub fn listed(&self) -> &[Offence] {
        &self.listed
    }

    /// How many there are, if any.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        (self.count > 0).then_some(self.count)
    }
}

impl From<Offence> for Offences {
    fn from(offence: Offence) -> Self {
        Self {
            listed: vec![offence],
            count: 1,
        }
    }
}

/// RFC 6901: `~` is written `~0`, `/` is written `~1`. Long keys are cut, as a client's text of
/// any length would come back otherwise.
fn pointer(path: &[&str]) -> String {
    let mut pointer = String::new();
    for segment in path {
        pointer.push('/');
        for character in cut(segment).chars() {
            match character {
                '~' => pointer.push_str("~0"),
                '/' => pointer.push_str("~1"),
                other => pointer.push(other),
            }
        }
    }
    pointer
}

/// The start of a client's own text, quoted for a sentence.
#[must_use]
pub fn shown(text: &str) -> String {
    let start = cut(text);
    let mut quoted = String::with_capacity(start.len() + 5);
    // Writing to a string can't fail.
    let _ = write!(quoted, "{start:?}");
    if start.len() < text.len() {
        quoted.push_str("...");
    }
    quoted
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_SHOWN))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_escape_what_they_must() {
        assert_eq!(pointer(&[]), "");
        assert_eq!(pointer(&["ids", "12"]), "/ids/12");
        assert_eq!(pointer(&["a/b~c"]), "/a~1b~0c");
        assert_eq!(pointer(&[&"k".repeat(99)]).len(), 65);
    }

    #[test]
    fn lists_a_hundred_and_counts_the_rest() {
        let mut offences = Offences::default();
        for index in 0..101_u32 {
            offences.add(&["ids", &index.to_string()], "wrong_type", String::new);
        }
        assert_eq!(offences.listed().len(), 100);
        assert_eq!(offences.count(), Some(101));
    }

    #[test]
    fn a_part_s_offences_point_into_the_whole_and_keep_the_bound() {
        let mut part = Offences::default();
        part.add(&["user_id"], "empty", String::new);
        part.add(&[], "wrong_type", String::new);
        let mut whole = Offences::default();
        for index in 0..60_u32 {
            whole.absorb(&format!("/{index}"), &part);
        }
        assert_eq!(whole.listed().len(), 100);
        assert_eq!(whole.count(), Some(120));
        assert_eq!(whole.listed()[2].pointer, "/1/user_id");
        assert_eq!(whole.listed()[3].pointer, "/1");
    }

    #[test]
    fn long_text_comes_back_cut_on_a_character_boundary() {
        assert_eq!(shown("HIGHT"), "\"HIGHT\"");
        let long = shown(&"ü".repeat(1000));
        assert!(long.len() < 80, "{long}");
        assert!(long.ends_with("\"..."));
    }
}
