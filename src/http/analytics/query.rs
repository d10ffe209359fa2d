//! Reads a query, and gathers everything that is wrong with it.

use std::borrow::Cow;

use rocket::http::RawStr;
use rocket::request::{FromRequest, Outcome, Request};

use crate::http::error::{Offence, Offences, Problem};

/// The parameters of a request, in their order, as they are written.
#[derive(Clone, Copy)]
pub(in crate::http) struct Query<'r>(&'r str);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Query<'r> {
    type Error = std::convert::Infallible;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Self::Error> {
        let query = request.uri().query();
        Outcome::Success(Self(query.map_or("", |query| query.as_str())))
    }
}

/// A query that is read one parameter after the other. What nobody asked for is refused.
pub(super) struct Reader<'r> {
    given: Vec<(Cow<'r, str>, Option<Cow<'r, str>>)>,
    known: Vec<&'static str>,
    offences: Offences,
}

impl<'r> Query<'r> {
    /// Whether there are no parameters.
    pub(in crate::http) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Begins to read.
    pub(super) fn read(self) -> Reader<'r> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        let given = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = RawStr::new(value).url_decode().ok();
            (RawStr::new(name).url_decode_lossy(), value)
        });
        Reader {
            given: given.collect(),
            known: Vec::new(),
            offences: Offences::default(),
        }
    }
}

impl Reader<'_> {
    /// A parameter that may be there once; `parse` says what is wrong with it.
    pub(super) fn one<T>(
        &mut self,
        name: &'static str,
        parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<T> {
        let mut all = self.all(name, 1, parse);
        all.pop()
    }

    /// A parameter that may be there `most` times.
    pub(super) fn all<T>(
        &mut self,
        name: &'static str,
        most: usize,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Vec<T> {
        self.known.push(name);
        let mut found = Vec::new();
        let mut wrong = Vec::new();
        let values = self.given.iter().filter(|(given, _)| given == name);
        for (count, (_, value)) in values.enumerate() {
            let read = match value {
                _ if count >= most => Err(match most {
                    1 => "is given more than once".to_owned(),
                    _ => format!("is given more than {most} times"),
                }),
                None => Err("is not UTF-8".to_owned()),
                Some(text) => parse(text),
            };
            let too_many = count >= most;
            match read {
                Ok(read) => found.push(read),
                Err(detail) => wrong.push(detail),
            }
            if too_many {
                break;
            }
        }
        for detail in wrong {
            self.refuse(name, detail);
        }
        found
    }

    /// Notes what is wrong with a parameter beside what its own text says.
    pub(super) fn refuse(&mut self, name: &'static str, detail: String) {
        let offence = Offence::in_parameter(name, detail);
        self.offences.absorb("", &offence.into());
    }

    /// Everything that is wrong, what nobody asked for too.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in &self.given {
            if !self.known.contains(&name.as_ref()) {
                let known = self.known.join(", ");
                let detail = format!("is unknown here, where these are known: {known}");
                let offence = Offence::unknown_parameter(name, detail);
                self.offences.absorb("", &offence.into());
            }
        }
        if self.offences.is_empty() {
            Ok(())
        } else {
            Err(Problem::parameters(self.offences))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::events::whole;

    /// What `read` makes of the query, and all that is wrong with it.
    fn read<T>(query: &str, read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Vec<String>) {
        let mut reader = Query(query).read();
        let found = read(&mut reader);
        let refused = reader.finish().err();
        let wrong = refused.map(|it| it.offences().listed().iter().map(words).collect());
        (found, wrong.unwrap_or_default())
    }

    fn words(offence: &Offence) -> String {
        format!("{} {}", offence.parameter().unwrap(), offence.detail())
    }

    fn text(text: &str) -> Result<String, String> {
        match text {
            "refused" => Err("is refused".to_owned()),
            text => Ok(text.to_owned()),
        }
    }

    #[test]
    fn parameters_are_decoded_once_and_in_order() {
        let query = "a=x%20y+z%2B&&b=%25&b=2&c&";
        let (found, wrong) = read(query, |it| {
            (it.one("a", text), it.all("b", 2, text), it.one("c", text))
        });
        assert_eq!(wrong, [""; 0]);
        assert_eq!(found.0.unwrap(), "x y z+");
        assert_eq!(found.1, ["%", "2"]);
        assert_eq!(found.2.unwrap(), "");
        assert!(Query("").is_empty() && !Query("&").is_empty());
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let long = "n".repeat(1000);
        let query = format!("a=1&a=2&a=3&b=%ff&d=refused&c=7&x=1&s=1&s=2&s=3&s=4&{long}=1");
        let ((), wrong) = read(&query, |it| {
            it.one("a", text);
            it.one("b", text);
            it.one("d", text);
            it.one("c", |text| whole(text, 8..=9));
            it.all("s", 2, text);
        });
        assert_eq!(
            wrong[..6],
            [
                "a is given more than once",
                "b is not UTF-8",
                "d is refused",
                "c must be a whole number from 8 to 9",
                "s is given more than 2 times",
                "x is unknown here, where these are known: a, b, d, c, s",
            ]
        );
        assert_eq!(wrong.len(), 7);
        assert!(wrong[6].len() < 200);
    }
}
