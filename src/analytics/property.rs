//! Scalars in the JSON text of payloads, found without making values of the text.
//!
//! A path is a list of keys; where it comes to an array, a key is an index from 0. Of a key that an
//! object has several times, the last one counts, as in most JSON readers. An object or an array
//! is no scalar.
//!
//! The text was checked when it was accepted. On text that is no JSON the search ends, and what it
//! then finds means nothing.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memmem};

use super::number::Decimal;

/// What stands at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scalar<'a> {
    /// A string, without its quotes and escapes.
    Text(Cow<'a, str>),
    /// A number, as written.
    Number(&'a str),
    /// `true`, `false` or `null`.
    Word(&'a str),
}

impl<'a> Scalar<'a> {
    /// As which value it is listed: numbers of one value are one.
    pub(super) fn value(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => text,
            Self::Word(word) => word.into(),
            Self::Number(text) => match Decimal::parse(text) {
                Some(number) => number.to_string().into(),
                None => text.into(),
            },
        }
    }
}

/// The scalar at `path` in the text of an object; `None` if there is none.
pub(super) fn scalar<'a>(json: &'a str, path: &[String]) -> Option<Scalar<'a>> {
    let mut value = Text::new(json);
    for key in path {
        value = value.member(key)?;
    }
    value.scalar()
}

/// Whether payloads have a value at a path: a string of this text, a number of the value that the
/// text has as a JSON number, or the word.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    path: Vec<String>,
    value: String,
    number: Option<Decimal>,
    /// A payload without escapes that matches has these bytes.
    needle: memmem::Finder<'static>,
}

impl Matcher {
    pub(super) fn new(path: Vec<String>, value: String) -> Self {
        let number = Decimal::parse(&value);
        let needle = if value.starts_with(|it: char| it == '-' || it.is_ascii_digit())
            || matches!(value.as_str(), "true" | "false" | "null")
        {
            // The value has other spellings, but the key has not.
            let mut keys = path.iter().filter(|key| index(key).is_none());
            keys.next_back()
                .map(|key| format!("\"{key}\""))
                .unwrap_or_default()
        } else {
            format!("\"{value}\"")
        };
        let needle = memmem::Finder::new(needle.as_bytes()).into_owned();
        Self {
            path,
            value,
            number,
            needle,
        }
    }

    /// Whether `payload` has the value.
    pub(super) fn matches(&self, payload: &str) -> bool {
        let bytes = payload.as_bytes();
        if self.needle.find(bytes).is_none() && memchr(b'\\', bytes).is_none() {
            return false;
        }
        match scalar(payload, &self.path) {
            None => false,
            Some(Scalar::Text(text)) => text == self.value,
            Some(Scalar::Word(word)) => word == self.value,
            Some(Scalar::Number(text)) => {
                text == self.value || (self.number.is_some() && Decimal::parse(text) == self.number)
            }
        }
    }
}

/// The index that a key is in an array.
fn index(key: &str) -> Option<usize> {
    let plain = key.bytes().all(|byte| byte.is_ascii_digit());
    let led = key.len() > 1 && key.starts_with('0');
    (plain && !led).then(|| key.parse().ok()).flatten()
}

/// JSON text from some point on. A copy remembers a place.
#[derive(Clone, Copy)]
struct Text<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Text<'a> {
    fn new(text: &'a str) -> Self {
        let mut new = Self { text, at: 0 };
        new.space();
        new
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Goes behind `byte` and the space around it.
    fn eat(&mut self, byte: u8) -> Option<()> {
        self.space();
        (self.peek()? == byte).then_some(())?;
        self.at += 1;
        self.space();
        Some(())
    }

    /// The value of `key` in the object or array that begins here.
    fn member(mut self, key: &str) -> Option<Self> {
        match self.peek()? {
            b'{' => {
                self.eat(b'{')?;
                self.last_of(key)
            }
            b'[' => {
                self.eat(b'[')?;
                self.element(index(key)?)
            }
            _ => None,
        }
    }

    /// The last value of `key` among the members that begin here.
    fn last_of(mut self, key: &str) -> Option<Self> {
        let mut found = None;
        while self.peek()? == b'"' {
            let name = self.string()?;
            self.eat(b':')?;
            if is_key(name, key) {
                found = Some(self);
            }
            self.skip()?;
            if self.eat(b',').is_none() {
                break;
            }
        }
        found
    }

    /// The value with this index among the elements that begin here.
    fn element(mut self, index: usize) -> Option<Self> {
        for _ in 0..index {
            if self.peek()? == b']' {
                return None;
            }
            self.skip()?;
            self.eat(b',')?;
        }
        (self.peek()? != b']').then_some(self)
    }

    /// Goes behind the string that begins here; returns what is between its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at + 1;
        self.at = start;
        loop {
            self.at += memchr2(b'"', b'\\', self.rest())?;
            if self.peek()? == b'"' {
                let inside = self.text.get(start..self.at)?;
                self.at += 1;
                return Some(inside);
            }
            self.at += 2;
        }
    }

    /// Goes behind the value that begins here.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                _ if depth == 0 => {
                    self.word();
                    return Some(());
                }
                _ => self.at += 1,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Goes behind the number or word that begins here, and returns it.
    fn word(&mut self) -> &'a str {
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
        let rest = self.rest();
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        let word = self.text.get(self.at..self.at + length).unwrap_or_default();
        self.at += length;
        word
    }

    /// The scalar that begins here.
    fn scalar(mut self) -> Option<Scalar<'a>> {
        match self.peek()? {
            b'"' => unescape(self.string()?).map(Scalar::Text),
            b'{' | b'[' => None,
            b'-' | b'0'..=b'9' => Some(Scalar::Number(self.word())),
            _ => Some(Scalar::Word(self.word())),
        }
    }
}

/// Whether a name, as it is between its quotes, is `key`. A name with escapes never is the key that it
/// looks like: `"\""` is one quote, and the key `\"` is written `"\\\""`.
fn is_key(name: &str, key: &str) -> bool {
    unescape(name).is_some_and(|name| name == key)
}

/// What the inside of a JSON string says; `None` of an escape that means no character.
fn unescape(inside: &str) -> Option<Cow<'_, str>> {
    if memchr(b'\\', inside.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inside));
    }
    let quoted = format!("\"{inside}\"");
    serde_json::from_str(&quoted).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests;
