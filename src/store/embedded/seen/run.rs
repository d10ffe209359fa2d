//! A run: one file of identities in ascending order, written once and never changed.
//!
//! ```text
//! pages    of 4 KiB, see `page.rs`
//! fences   the upper half of each page's first identity; kept in memory
//! filter   see `filter.rs`; in memory while there is room; none if there was no room to make it
//! footer   counts, the checksums of fences, filter and footer, and the run's tag
//! ```
//!
//! Opening reads all but the pages; each page is checked when it is read. A look costs one read
//! of one page.

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::filter::{BLOCK, Filter};
use super::manifest::Line;
use super::page::{self, PAGE, PER_PAGE, Place, u64_at};
use super::{Entry, First, Identity, upper};

const MAGIC: [u8; 8] = *b"tg-run-\x02";
const FOOTER: usize = 72;
/// Bytes that are written at once.
const WRITE: usize = 64 * PAGE;
/// After so many bytes they are synced, so that the store's own syncs never wait for more.
const SYNC: usize = 8 * 1024 * 1024;
/// Pages that a cursor reads at once.
const AHEAD: usize = 16;

/// The name of a run's file.
pub(super) fn file_name(run: u64) -> String {
    format!("{run:016x}.run")
}

/// Whether this is the name of a run's file.
pub(super) fn is_file_name(name: &str) -> bool {
    name.strip_suffix(".run")
        .is_some_and(|number| number.len() == 16 && u64::from_str_radix(number, 16).is_ok())
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let sentence = format!("{}: {what} is not what was written", path.display());
    io::Error::new(ErrorKind::InvalidData, sentence)
}

/// A run that is whole.
#[derive(Debug)]
pub(super) struct Run {
    path: PathBuf,
    file: File,
    number: u64,
    tag: u64,
    count: u64,
    length: u64,
    fences: Vec<u64>,
    /// Where the filter is in the file, its blocks and checksum.
    filter: (u64, u64, u64),
}

impl Run {
    /// Opens the run of this line of the manifest.
    pub(super) fn open(dir: &Path, line: Line) -> io::Result<Self> {
        let path = dir.join(file_name(line.run));
        let file = File::open(&path)?;
        if file.metadata()?.len() != line.length {
            return Err(damaged(&path, "its length"));
        }
        let mut footer = [0; FOOTER];
        let start = line.length.checked_sub(FOOTER as u64);
        let start = start.ok_or_else(|| damaged(&path, "its length"))?;
        file.read_exact_at(&mut footer, start)?;
        let (body, sum) = footer.split_at(FOOTER - 8);
        let sound = body.starts_with(&MAGIC)
            && u64_at(body, 8) == line.run
            && u64_at(body, 56) == line.tag
            && xxh3_64(body) == u64_at(sum, 0);
        if !sound {
            return Err(damaged(&path, "its footer"));
        }
        let [count, pages, blocks] = [16, 24, 32].map(|at| u64_at(body, at));
        let [fences_sum, filter_sum] = [40, 48].map(|at| u64_at(body, at));
        let after_pages = pages.saturating_mul(PAGE as u64);
        let bytes = usize::try_from(pages.saturating_mul(8)).unwrap_or(usize::MAX);
        let after_fences = after_pages.saturating_add(bytes as u64);
        let length = after_fences
            .saturating_add(blocks.saturating_mul(BLOCK as u64))
            .saturating_add(FOOTER as u64);
        if length != line.length {
            return Err(damaged(&path, "its length"));
        }
        let mut fences = vec![0; bytes];
        file.read_exact_at(&mut fences, after_pages)?;
        if xxh3_64(&fences) != fences_sum {
            return Err(damaged(&path, "its list of pages"));
        }
        let (fences, _) = fences.as_chunks::<8>();
        Ok(Self {
            number: line.run,
            tag: line.tag,
            count,
            length,
            fences: fences
                .iter()
                .map(|&fence| u64::from_le_bytes(fence))
                .collect(),
            filter: (after_fences, blocks, filter_sum),
            path,
            file,
        })
    }

    /// Reads its filter, if it has one.
    pub(super) fn read_filter(&self) -> io::Result<Option<Filter>> {
        let (start, blocks, sum) = self.filter;
        if blocks == 0 {
            return Ok(None);
        }
        let mut input = BufReader::new(&self.file);
        input.seek(SeekFrom::Start(start))?;
        match Filter::read(&mut input.by_ref(), blocks, sum)? {
            Some(filter) => Ok(Some(filter)),
            None => Err(damaged(&self.path, "its filter")),
        }
    }

    /// Bytes of the filter in the file.
    pub(super) fn filter_bytes(&self) -> u64 {
        self.filter.1.saturating_mul(BLOCK as u64)
    }

    pub(super) fn line(&self) -> Line {
        Line {
            run: self.number,
            length: self.length,
            tag: self.tag,
        }
    }

    /// How many identities it has.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Bytes that it takes in memory, without its filter.
    #[cfg(test)]
    pub(super) fn memory(&self) -> u64 {
        self.fences.capacity() as u64 * 8
    }

    /// Its name goes; those who have it open can go on reading.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// Looks for an identity, on disk.
    pub(super) fn find(&self, identity: Identity) -> io::Result<Option<First>> {
        // Fences are half identities, so one that equals a fence may begin in the page before:
        // possible, if never seen.
        let fence = upper(identity);
        let first = self.fences.partition_point(|&other| other < fence);
        let first = first.saturating_sub(1);
        let rest = self.fences.get(first..).unwrap_or_default();
        let pages = rest.iter().take_while(|&&other| other <= fence).count();
        let mut page = [0; PAGE];
        for number in (first as u64..).take(pages) {
            self.file.read_exact_at(&mut page, number * PAGE as u64)?;
            let records = page::records(&page, self.place(number));
            let records = records.ok_or_else(|| self.damaged_page(number))?;
            if let Some(first) = page::find(records, identity) {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }

    fn place(&self, page: u64) -> Place {
        Place {
            tag: self.tag,
            page,
        }
    }

    fn damaged_page(&self, number: u64) -> io::Error {
        damaged(&self.path, &format!("page {number}"))
    }
}

/// Reads a run from its beginning to its end, a few pages at a time.
pub(super) struct Cursor {
    run: Arc<Run>,
    next_page: u64,
    entries: Vec<Entry>,
    at: usize,
}

impl Cursor {
    /// Stands at the first entry.
    pub(super) fn new(run: Arc<Run>) -> io::Result<Self> {
        let mut cursor = Self {
            run,
            next_page: 0,
            entries: Vec::with_capacity(AHEAD * PER_PAGE),
            at: 0,
        };
        cursor.read_ahead()?;
        Ok(cursor)
    }

    /// The entry where it stands; `None` at the end.
    pub(super) fn entry(&self) -> Option<Entry> {
        self.entries.get(self.at).copied()
    }

    /// Goes to the next.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        self.at += 1;
        if self.at >= self.entries.len() {
            self.read_ahead()?;
        }
        Ok(())
    }

    fn read_ahead(&mut self) -> io::Result<()> {
        self.entries.clear();
        self.at = 0;
        let start = usize::try_from(self.next_page).unwrap_or(usize::MAX);
        let pages = self.run.fences.len().saturating_sub(start).min(AHEAD);
        let mut bytes = vec![0; pages * PAGE];
        let from = self.next_page * PAGE as u64;
        self.run.file.read_exact_at(&mut bytes, from)?;
        for page in bytes.chunks(PAGE) {
            let records = page::records(page, self.run.place(self.next_page));
            let records = records.ok_or_else(|| self.run.damaged_page(self.next_page))?;
            self.entries.extend(records.iter().map(page::entry_of));
            self.next_page += 1;
        }
        Ok(())
    }
}

/// Writes a run. Dropped before the end, it takes its file away.
pub(super) struct RunWriter {
    path: PathBuf,
    file: File,
    number: u64,
    tag: u64,
    count: u64,
    fences: Vec<u64>,
    filter: Option<Filter>,
    /// The page that is being filled.
    page: Vec<Entry>,
    /// Whole pages that wait to be written.
    bytes: Vec<u8>,
    unsynced: usize,
    whole: bool,
}

impl RunWriter {
    /// Begins the run `number`. It has its own name at once: until the manifest says so it is
    /// only a stray, so that no other name is needed meanwhile.
    pub(super) fn create(dir: &Path, number: u64, filter: Option<Filter>) -> io::Result<Self> {
        let path = dir.join(file_name(number));
        Ok(Self {
            file: File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?,
            path,
            number,
            tag: uuid::Uuid::new_v4().as_u64_pair().0,
            count: 0,
            fences: Vec::new(),
            filter,
            page: Vec::with_capacity(PER_PAGE),
            bytes: Vec::with_capacity(WRITE),
            unsynced: 0,
            whole: false,
        })
    }

    /// Adds an entry, greater than all before.
    pub(super) fn push(&mut self, entry: Entry) -> io::Result<()> {
        debug_assert!(
            self.page.last().is_none_or(|last| last.0 < entry.0),
            "entries come in order"
        );
        if let Some(filter) = &mut self.filter {
            filter.insert(entry.0);
        }
        self.page.push(entry);
        self.count += 1;
        if self.page.len() == PER_PAGE {
            self.end_page()?;
        }
        Ok(())
    }

    fn end_page(&mut self) -> io::Result<()> {
        let Some(&(identity, _)) = self.page.first() else {
            return Ok(());
        };
        let place = Place {
            tag: self.tag,
            page: self.fences.len() as u64,
        };
        page::append(&mut self.bytes, &self.page, place);
        self.fences.push(upper(identity));
        self.page.clear();
        if self.bytes.len() >= WRITE {
            self.write_out()?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_all(&self.bytes)?;
        self.unsynced += self.bytes.len();
        self.bytes.clear();
        if self.unsynced >= SYNC {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Ends the run: it is on disk, but for its name in the directory.
    pub(super) fn finish(mut self) -> io::Result<(Run, Option<Filter>)> {
        self.end_page()?;
        self.write_out()?;
        let fences: Vec<u8> = self.fences.iter().flat_map(|f| f.to_le_bytes()).collect();
        self.file.write_all(&fences)?;
        let filter = self.filter.take();
        let (blocks, filter_sum) = match &filter {
            Some(filter) => (filter.blocks(), filter.write(&mut self.file)?),
            None => (0, 0),
        };
        let pages = self.fences.len() as u64;
        let mut footer = MAGIC.to_vec();
        let fences_sum = xxh3_64(&fences);
        for number in [
            self.number,
            self.count,
            pages,
            blocks,
            fences_sum,
            filter_sum,
            self.tag,
        ] {
            footer.extend_from_slice(&number.to_le_bytes());
        }
        let sum = xxh3_64(&footer);
        footer.extend_from_slice(&sum.to_le_bytes());
        self.file.write_all(&footer)?;
        self.file.sync_all()?;
        let after_fences = pages * PAGE as u64 + fences.len() as u64;
        let run = Run {
            path: self.path.clone(),
            file: self.file.try_clone()?,
            number: self.number,
            tag: self.tag,
            count: self.count,
            length: after_fences + blocks * BLOCK as u64 + FOOTER as u64,
            fences: std::mem::take(&mut self.fences),
            filter: (after_fences, blocks, filter_sum),
        };
        self.whole = true;
        Ok((run, filter))
    }
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        if !self.whole {
            // A stray that stays is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, entries: &[Entry]) -> Run {
        let mut writer = RunWriter::create(dir, 1, None).unwrap();
        for &entry in entries {
            writer.push(entry).unwrap();
        }
        writer.finish().unwrap().0
    }

    fn entry(identity: Identity) -> Entry {
        let first = First {
            time: 1,
            content: u32::try_from(identity & 0xFFFF).unwrap(),
        };
        (identity, first)
    }

    /// Fences are half identities; these all have the same half but a few.
    #[test]
    fn identities_with_one_upper_half_are_found_in_every_page() {
        let dir = tempfile::tempdir().unwrap();
        let same = (1..700).map(|n| 5 << 64 | n << 1);
        let all: Vec<Entry> = (1..100)
            .map(|n| 4 << 64 | n << 1)
            .chain(same)
            .chain((1..300).map(|n| (5 + n) << 64))
            .map(entry)
            .collect();
        let run = write(dir.path(), &all);
        let run = Run::open(dir.path(), run.line()).unwrap();
        assert!(run.fences.len() > 6);
        for &(identity, first) in &all {
            assert_eq!(run.find(identity).unwrap(), Some(first));
            assert_eq!(run.find(identity | 1).unwrap(), None);
        }
        assert_eq!(run.find(0).unwrap(), None);
        assert_eq!(run.find(Identity::MAX).unwrap(), None);
    }

    #[test]
    fn a_cursor_gives_all_in_order_and_reads_little_ahead() {
        let dir = tempfile::tempdir().unwrap();
        for count in [0, 1, PER_PAGE, PER_PAGE * AHEAD, PER_PAGE * AHEAD * 3 + 1] {
            let all: Vec<Entry> = (0..count as u128).map(|n| entry(n << 70 | 3)).collect();
            let mut cursor = Cursor::new(Arc::new(write(dir.path(), &all))).unwrap();
            for expected in all {
                assert_eq!(cursor.entry(), Some(expected));
                cursor.advance().unwrap();
                assert!(cursor.entries.capacity() <= AHEAD * PER_PAGE);
            }
            assert_eq!(cursor.entry(), None);
        }
    }

    #[test]
    fn a_run_that_was_not_ended_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RunWriter::create(dir.path(), 1, None).unwrap();
        writer.push(entry(1)).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
