//! Damaged files: the index begins anew, or says at the page what is wrong; it never answers wrong.

use super::*;

const EVENTS: u64 = 1_700;

fn filled(settings: SeenSettings) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut index = ByHand::open(dir.path(), settings);
    index.fill(0..EVENTS);
    index.close();
    dir
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for name in files(from) {
        fs::copy(from.join(&name), to.path().join(&name)).unwrap();
    }
    to
}

/// Opens a damaged index and asks it for everything; returns how many looks met the damage.
fn ask_all(dir: &Path, damaged: &str, what: &str) -> usize {
    let index = ByHand::open(dir, tiny());
    if index.background.manifest.covers == 0 {
        assert_eq!(index.seen.stats().identities, 0, "{what}");
        assert!(files(dir).is_empty(), "{what}");
        return 0;
    }
    assert_eq!(index.background.manifest.covers, EVENTS, "{what}");
    let mut met = 0;
    for n in 0..EVENTS + 200 {
        let wanted = [entry(n)];
        match index.seen.reserve(&wanted) {
            Ok(held) => {
                let known = Claim::Seen(wanted[0].1);
                let right = if n < EVENTS { known } else { Claim::New };
                assert_eq!(held.claims, [right], "{what}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidData);
                let sentence = error.to_string();
                assert!(sentence.contains(damaged), "{what}: {sentence}");
                assert!(sentence.contains("page "), "{what}: {sentence}");
                met += 1;
            }
        }
    }
    assert_eq!(index.shared().tickets.count(), 0);
    met
}

#[test]
fn no_damage_makes_a_wrong_answer() {
    let good = filled(tiny());
    assert!(files(good.path()).len() > 3, "{:?}", files(good.path()));
    let mut met = 0;
    for name in files(good.path()) {
        let length = fs::metadata(good.path().join(&name)).unwrap().len() as usize;
        let flips = (0..length).step_by(length / 12 + 1).chain([length - 1]);
        let cuts = [0, 1, length / 2, length - 1];
        let damage = |what: String, change: &dyn Fn(&mut Vec<u8>)| {
            let dir = copy(good.path());
            let path = dir.path().join(&name);
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
            ask_all(dir.path(), &name, &format!("{name}: {what}"))
        };
        for at in flips {
            met += damage(format!("byte {at} flipped"), &|bytes| bytes[at] ^= 0x10);
        }
        for at in cuts {
            assert_eq!(
                damage(format!("cut to {at}"), &|bytes| bytes.truncate(at)),
                0
            );
        }
        assert_eq!(damage("one byte more".into(), &|bytes| bytes.push(0)), 0);
        met += damage("a zeroed page".into(), &|bytes| {
            let end = bytes.len().min(4096);
            bytes[..end].fill(0);
        });
        let dir = copy(good.path());
        fs::remove_file(dir.path().join(&name)).unwrap();
        assert_eq!(ask_all(dir.path(), &name, &format!("{name} missing")), 0);
    }
    assert!(met > 0, "some damage lay in pages");
}

#[test]
fn a_merge_that_meets_damage_says_so_and_reservations_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = ByHand::open(dir.path(), tiny());
    index.fill(0..200);
    drop(index);
    let name = run::file_name(0);
    let mut bytes = fs::read(dir.path().join(&name)).unwrap();
    bytes[100] ^= 1;
    fs::write(dir.path().join(&name), bytes).unwrap();
    let (seen, covers) = Seen::open(dir.path(), tiny()).unwrap();
    assert_eq!(covers, 200);
    // The third run of its tier: the merge begins.
    seen.recover(&entries(200..300), 300);
    let shared = &seen.0.shared;
    let mut work = shared.work.lock();
    while work.damaged.is_none() {
        shared.changed.wait(&mut work);
    }
    drop(work);
    let error = seen.reserve(&[entry(1000)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains(&name), "{error}");
    // Generations are written all the same, and nothing waits for ever.
    seen.recover(&entries(300..900), 900);
    seen.close();
    drop(seen);
    Seen::discard(dir.path()).unwrap();
    assert!(files(dir.path()).is_empty());
    let (seen, covers) = Seen::open(dir.path(), tiny()).unwrap();
    assert_eq!(covers, 0);
    seen.recover(&entries(0..900), 900);
    assert_eq!(seen.find(identity(3)).unwrap(), Some(entry(3).1));
}
