//! Rollups that are made for one question, from the events it is about.
//!
//! The events are gone through once. Those that the scope lets through are put where their piece of
//! time stands, and the rollups of them need no filter: there are no other events in them.

use std::borrow::Cow;
use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;

use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use super::pieces::{Piece, Pieces};
use super::property::{Matcher, scalar};
use super::{AnalyticsError, Scope, Segment, TimeRange};
use crate::model::event::{Event, MAX_NAME, Scan, ScanQuery, ScannedEvent, ScannedUser};
use crate::rollups::{Bounds, Facts, Rollups, Unanswered, UserKey};
use crate::store::{Store, StoreError};

/// The most event types that are told apart: what rollups have numbers for.
const TYPES: usize = 60_000;

/// The most values that are told apart.
pub(super) const VALUES: usize = 10_000;

/// What a question wants to know of events.
pub(super) struct About {
    pub(super) scope: Scope,
    pub(super) range: TimeRange,
    pub(super) pieces: Pieces,
    pub(super) names: Names,
    /// Whether it is about cohorts, which need everything from the first event on.
    pub(super) cohorts: bool,
}

/// What is told apart.
pub(super) enum Names {
    /// Nothing.
    None,
    /// Types.
    Types,
    /// The scalars at this path of the payload, as if they were types.
    Values(Vec<String>),
}

impl About {
    /// The events that must be gone through.
    fn query(&self, limit: u64) -> ScanQuery {
        let scope = &self.scope;
        let types = scope.segments.iter().filter_map(|segment| match segment {
            Segment::EventType(name) => Some(name.clone()),
            Segment::Property { .. } => None,
        });
        let event_types: Vec<String> = types.collect();
        ScanQuery {
            tenant: scope.tenant.clone(),
            source: scope.source.clone(),
            payloads: event_types.len() < scope.segments.len()
                || matches!(self.names, Names::Values(_)),
            event_types,
            from: self.range.0,
            to: self.range.1,
            limit,
        }
    }
}

/// The rollups, and how to read them.
pub(super) struct Made {
    rollups: Rollups,
    pieces: Arc<Pieces>,
    /// Whether there are more values than are told apart.
    pub(super) truncated: bool,
}

/// Reads the events, at most `limit` of them.
pub(super) async fn read(store: &Store, about: About, limit: u64) -> Result<Made, AnalyticsError> {
    let query = about.query(limit);
    let cohorts = about.cohorts;
    let fold = Arc::new(Fold::new(about, store.user_key()));
    let scanned = {
        let fold = Arc::clone(&fold);
        store.scan(query, move |events| fold.take(events)).await?
    };
    match scanned {
        Scan::TooBroad => {
            let of = "events";
            return Err(AnalyticsError::TooBroad { limit, of });
        }
        Scan::Gone(last) => {
            return Err(AnalyticsError::EventsGone { last, cohorts });
        }
        Scan::Whole | Scan::Left => {}
    }
    let mut state = fold.state.lock();
    if let Some(error) = state.error.take() {
        return Err(error);
    }
    Ok(Made {
        rollups: mem::take(&mut state.rollups),
        pieces: Arc::clone(&fold.pieces),
        truncated: state.truncated,
    })
}

impl Made {
    /// Puts a question to them, on a thread for blocking work.
    pub(super) async fn ask<T: Send + 'static>(
        self,
        question: impl FnOnce(&Rollups, &Pieces) -> Result<T, Unanswered> + Send + 'static,
    ) -> Result<T, AnalyticsError> {
        let asked = spawn_blocking(move || question(&self.rollups, &self.pieces));
        let Ok(answer) = asked.await else {
            // A panic, which has told of itself.
            return Err(StoreError::Closed.into());
        };
        answer.map_err(|refused| match refused {
            Unanswered::Range => AnalyticsError::Range,
            Unanswered::Seconds | Unanswered::Bound(_) => AnalyticsError::TooBroad {
                limit: TYPES as u64,
                of: "event types",
            },
        })
    }
}

/// What is known so far.
struct State {
    rollups: Rollups,
    /// The values, where those are told apart.
    values: HashSet<String>,
    truncated: bool,
    error: Option<AnalyticsError>,
}

/// An event that the scope lets through, and the hash of its user.
type Kept<'e> = (Event<'e>, Option<u128>);

/// Takes events in, on many threads.
struct Fold {
    matchers: Vec<Matcher>,
    pieces: Arc<Pieces>,
    names: Names,
    key: UserKey,
    state: Mutex<State>,
}

impl Fold {
    fn new(about: About, key: UserKey) -> Self {
        let bounds = Bounds {
            tenants: 1,
            names: TYPES,
            pairs: TYPES,
            own_pairs: TYPES,
            users: usize::MAX,
            hours: usize::MAX,
            days: usize::MAX,
            events: usize::MAX,
        };
        Self {
            matchers: about
                .scope
                .segments
                .iter()
                .filter_map(Segment::matcher)
                .collect(),
            pieces: Arc::new(about.pieces),
            names: about.names,
            key,
            state: Mutex::new(State {
                rollups: Rollups::new(bounds),
                values: HashSet::new(),
                truncated: false,
                error: None,
            }),
        }
    }

    /// Takes in the events of a block.
    fn take(&self, events: &[ScannedEvent<'_>]) -> ControlFlow<()> {
        match self.kept(events) {
            Ok(kept) => {
                self.add(kept);
                ControlFlow::Continue(())
            }
            Err(error) => {
                self.state.lock().error = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// What the rollups shall know of those that the scope lets through.
    fn kept<'e>(&self, events: &[ScannedEvent<'e>]) -> Result<Vec<Kept<'e>>, AnalyticsError> {
        let mut kept = Vec::new();
        let mut piece: Option<Piece> = None;
        let matches =
            |event: &&ScannedEvent<'_>| self.matchers.iter().all(|it| it.matches(event.payload));
        for event in events.iter().filter(matches) {
            let name = match &self.names {
                Names::None => None,
                Names::Types => event.event_type.map(Cow::Borrowed),
                Names::Values(path) => match scalar(event.payload, path) {
                    Some(scalar) => Some(scalar.value()),
                    None => continue,
                },
            };
            let piece = match piece {
                Some(known) if known.holds(event.time) => known,
                _ => *piece.insert(self.pieces.of(event.time)?),
            };
            let user = event.user.map(|user| self.user(event.tenant, user));
            let kept_of = Event {
                tenant: Cow::Borrowed(""),
                topic: Cow::Borrowed(""),
                id: Cow::Borrowed(""),
                time: piece.stands_at(),
                source: None,
                event_type: name,
                user: None,
                payload: Cow::Borrowed(""),
                extra: Cow::Borrowed(""),
            };
            kept.push((kept_of, user));
        }
        Ok(kept)
    }

    /// Users are known by their hashes, since of erased events there is nothing else.
    fn user(&self, tenant: &str, user: ScannedUser<'_>) -> u128 {
        match user {
            ScannedUser::Named(name) => self.key.hash(tenant, name),
            ScannedUser::Hashed(hash) => hash,
        }
    }

    fn add(&self, mut kept: Vec<Kept<'_>>) {
        if matches!(self.names, Names::Values(_)) {
            let mut state = self.state.lock();
            kept.retain(|(event, _)| state.admits(event.event_type.as_deref().unwrap_or_default()));
        }
        let facts = Facts::of_hashed(kept.iter().map(|(event, user)| (event, *user)));
        self.state.lock().rollups.add(&facts);
    }
}

impl State {
    /// Whether a value is told apart.
    fn admits(&mut self, value: &str) -> bool {
        if self.values.contains(value) {
            return true;
        }
        if self.values.len() >= VALUES || value.len() > MAX_NAME {
            self.truncated = true;
            return false;
        }
        self.values.insert(value.to_owned())
    }
}
