//! The identities that transactions of this node are claiming now.
//!
//! Two transactions that copy in the same identity meet in the database: the later one waits for the
//! earlier, and is then made again. Those of one node know of each other beforehand: the later one
//! takes the identity as spent, copies it not, and commits only after the earlier one has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::write::Trouble;
use crate::store::identity::{First, Identity};

/// How long a transaction that has claimed waits for those before it. Two nodes whose transactions wait
/// for each other, one way here and the other way in the database, would do so for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is remembered of identities: the content of the first event of each.
pub(super) type Contents = HashMap<Identity, u32>;

/// Everything that is being claimed.
#[derive(Default)]
pub(super) struct Claims(Mutex<Open>);

#[derive(Default)]
struct Open {
    last: u64,
    /// By identity: the content that its claim has for it, and the claim's number.
    identities: HashMap<Identity, (u32, u64)>,
    claims: HashMap<u64, watch::Receiver<Outcome>>,
}

/// What a claim came to.
#[derive(Clone)]
enum Outcome {
    Open,
    /// It is committed. Some of its identities were spent before, with these contents.
    Committed(Arc<Contents>),
    Failed,
}

/// What one transaction claims. Given up when it is dropped.
pub(super) struct Claim<'c> {
    claims: &'c Claims,
    number: u64,
    /// What no other transaction of this node claims.
    own: Vec<(Identity, First)>,
    /// What others claim, who were earlier: the content that they have, and which claim it is.
    theirs: Vec<(Identity, u32, u64)>,
    /// Those others.
    before: BTreeMap<u64, watch::Receiver<Outcome>>,
    outcome: watch::Sender<Outcome>,
}

impl Claims {
    /// Claims the first events of some identities.
    pub(super) fn claim(&self, firsts: &[(Identity, First)]) -> Claim<'_> {
        let (outcome, watched) = watch::channel(Outcome::Open);
        let mut own = Vec::with_capacity(firsts.len());
        let (mut theirs, mut before) = (Vec::new(), BTreeMap::new());
        let mut open = self.0.lock();
        open.last += 1;
        let number = open.last;
        for (identity, first) in firsts {
            if let Some((content, earlier)) = open.identities.get(identity).copied() {
                theirs.push((*identity, content, earlier));
                if let Some(outcome) = open.claims.get(&earlier) {
                    before.entry(earlier).or_insert_with(|| outcome.clone());
                }
            } else {
                open.identities.insert(*identity, (first.content, number));
                own.push((*identity, *first));
            }
        }
        open.claims.insert(number, watched);
        Claim {
            claims: self,
            number,
            own,
            theirs,
            before,
            outcome,
        }
    }
}

impl Claim<'_> {
    /// What this transaction has to look for in the database, in the order of identities.
    pub(super) fn own(&self) -> &[(Identity, First)] {
        &self.own
    }

    /// Waits until those before it are committed; what is spent by them.
    pub(super) async fn earlier(&mut self) -> Result<Contents, Trouble> {
        let mut spent = Contents::with_capacity(self.theirs.len());
        let mut found = BTreeMap::new();
        for (number, outcome) in &mut self.before {
            let ended = outcome.wait_for(|it| !matches!(it, Outcome::Open)).await;
            match ended.as_deref() {
                Ok(Outcome::Committed(contents)) => {
                    found.insert(*number, Arc::clone(contents));
                }
                _ => return Err(Trouble::Void),
            }
        }
        for (identity, content, number) in &self.theirs {
            let known = found.get(number).and_then(|it| it.get(identity));
            spent.insert(*identity, known.copied().unwrap_or(*content));
        }
        Ok(spent)
    }

    /// The same, while the database holds what this transaction has claimed.
    pub(super) async fn earlier_soon(&mut self) -> Result<Contents, Trouble> {
        let earlier = timeout(PATIENCE, self.earlier()).await;
        earlier.unwrap_or(Err(Trouble::Again))
    }

    /// It is committed; of its own identities, these were spent before.
    pub(super) fn committed(self, spent: Contents) {
        self.outcome
            .send_replace(Outcome::Committed(Arc::new(spent)));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut open = self.claims.0.lock();
        open.claims.remove(&self.number);
        for (identity, _) in &self.own {
            open.identities.remove(identity);
        }
        drop(open);
        self.outcome.send_if_modified(|outcome| {
            let failed = matches!(outcome, Outcome::Open);
            if failed {
                *outcome = Outcome::Failed;
            }
            failed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firsts(identities: impl IntoIterator<Item = u128>, content: u32) -> Vec<(Identity, First)> {
        let first = First { time: 0, content };
        identities.into_iter().map(|it| (it, first)).collect()
    }

    fn own(claim: &Claim<'_>) -> Vec<Identity> {
        claim.own().iter().map(|it| it.0).collect()
    }

    #[tokio::test]
    async fn what_an_earlier_one_claims_is_spent_once_it_is_committed() {
        let claims = Claims::default();
        let mut one = claims.claim(&firsts([1, 2, 3], 10));
        let mut two = claims.claim(&firsts([2, 3, 4], 20));
        let mut three = claims.claim(&firsts([1, 4, 5], 30));
        assert_eq!((own(&one), own(&two)), (vec![1, 2, 3], vec![4]));
        assert_eq!(own(&three), [5]);
        assert!(one.earlier().await.unwrap().is_empty());
        // The first event of 2 was one that nobody here knew of.
        one.committed(Contents::from_iter([(2, 99)]));
        let spent = two.earlier().await.unwrap();
        assert_eq!(spent, Contents::from_iter([(2, 99), (3, 10)]));
        two.committed(Contents::new());
        let spent = three.earlier().await.unwrap();
        assert_eq!(spent, Contents::from_iter([(1, 10), (4, 20)]));
        drop(three);
        let open = claims.0.lock();
        assert!(open.identities.is_empty() && open.claims.is_empty());
    }

    #[tokio::test]
    async fn what_relies_on_a_claim_that_failed_is_void_and_claims_again() {
        let claims = Claims::default();
        let one = claims.claim(&firsts([1, 2], 10));
        let mut two = claims.claim(&firsts([2, 3], 20));
        drop(one);
        assert!(matches!(two.earlier().await, Err(Trouble::Void)));
        drop(two);
        let mut again = claims.claim(&firsts([2, 3], 20));
        assert_eq!(own(&again), [2, 3]);
        assert!(again.earlier().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn nobody_holds_what_others_wait_for_while_waiting_longer_than_so() {
        let claims = Claims::default();
        let _endless = claims.claim(&firsts([1], 10));
        let mut waits = claims.claim(&firsts([1, 2], 20));
        assert!(matches!(waits.earlier_soon().await, Err(Trouble::Again)));
        assert_eq!(own(&waits), [2], "it still has its claim");
    }
}
