//! Rows as text for people, with bars where there is room for them, or as CSV.

use crate::cli::csv;

/// The longest bar, in characters.
const MAX_BAR: usize = 40;

/// The shortest bar that says anything.
const MIN_BAR: usize = 8;

/// Blocks of one to seven eighths of a character.
const PARTS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Rows of one kind.
pub(super) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// The column whose numbers are drawn as bars.
    bars: Option<usize>,
    /// Rows in which people read the same, if they differ; these may be cut at the width of a
    /// terminal.
    wide: Option<Wide>,
    /// What is said below it.
    note: Option<&'static str>,
}

/// What people read instead of the rows.
pub(super) struct Wide {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub(super) fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|name| (*name).to_owned()).collect(),
            rows: Vec::new(),
            bars: None,
            wide: None,
            note: None,
        }
    }

    /// Says this below it.
    pub(super) fn with_note(mut self, note: &'static str) -> Self {
        self.note = Some(note);
        self
    }

    /// Draws the numbers of this column.
    pub(super) fn with_bars(mut self, column: usize) -> Self {
        self.bars = Some(column);
        self
    }

    /// Shows these to people.
    pub(super) fn with_wide(mut self, wide: Wide) -> Self {
        self.wide = Some(wide);
        self
    }

    /// Adds a row.
    pub(super) fn row<const N: usize>(&mut self, fields: [String; N]) {
        self.rows.push(fields.into());
    }

    /// CSV with a header.
    pub(super) fn csv(&self) -> String {
        let mut out = Vec::new();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            for (at, text) in row.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                csv::field(&mut out, text);
            }
            out.push(b'\n');
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Columns, the first one to the left and the others to the right; with bars, and cut, on a
    /// terminal of this width.
    pub(super) fn text(&self, width: Option<usize>) -> String {
        let (header, rows) = match &self.wide {
            Some(wide) => (&wide.header, &wide.rows),
            None => (&self.header, &self.rows),
        };
        let widths = widths(header, rows);
        let shown = self.columns(width);
        let total: usize = widths.iter().take(shown).map(|width| width + 2).sum();
        let room = width
            .and_then(|width| width.checked_sub(total))
            .unwrap_or(0);
        let bars = self.bars.filter(|_| room >= MIN_BAR);
        let number = |row: &Vec<String>| -> u64 {
            let text = bars.and_then(|column| row.get(column));
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let most = rows.iter().map(number).max().unwrap_or(0);
        let mut out = String::new();
        for (at, row) in std::iter::once(header).chain(rows).enumerate() {
            let mut line = String::new();
            for (column, (text, width)) in row.iter().zip(&widths).take(shown).enumerate() {
                // What others sent must not move the cursor of who reads it.
                let text: String = text.chars().map(printable).collect();
                let pad = " ".repeat(width.saturating_sub(text.chars().count()));
                if column == 0 {
                    line.extend([text, pad]);
                } else {
                    line.extend(["  ".to_owned(), pad, text]);
                }
            }
            if at > 0 && bars.is_some() {
                line.push_str("  ");
                bar(&mut line, number(row), most, room.min(MAX_BAR));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// What is to be said beside it: that columns were cut, or what its marks mean.
    pub(super) fn note(&self, width: Option<usize>) -> Option<String> {
        let all = self.wide.as_ref().map_or(&self.header, |wide| &wide.header);
        let cut = all.len() - self.columns(width);
        let cut = (cut > 0).then(|| {
            format!("{cut} more columns do not fit: widen the terminal, or use --csv or --json")
        });
        let said: Vec<String> = self
            .note
            .map(str::to_owned)
            .into_iter()
            .chain(cut)
            .collect();
        (!said.is_empty()).then(|| said.join("\n"))
    }

    /// How many columns fit.
    fn columns(&self, width: Option<usize>) -> usize {
        let (Some(wide), Some(width)) = (&self.wide, width) else {
            return self
                .wide
                .as_ref()
                .map_or(self.header.len(), |it| it.header.len());
        };
        let mut end = 0;
        let widths = widths(&wide.header, &wide.rows);
        let fit = widths.iter().enumerate().take_while(|(column, own)| {
            end += **own + if *column == 0 { 0 } else { 2 };
            // The first two say what a row is about.
            end <= width || *column < 2
        });
        fit.count()
    }
}

fn printable(character: char) -> char {
    if character.is_control() {
        '\u{fffd}'
    } else {
        character
    }
}

fn widths(header: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = header.iter().map(|it| it.chars().count()).collect();
    for row in rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    widths
}

/// A bar as long as `number` is of `most`, to an eighth of a character; what is not zero is seen.
fn bar(out: &mut String, number: u64, most: u64, room: usize) {
    if number == 0 || most == 0 {
        return;
    }
    let eighths = u128::from(number) * room as u128 * 8 / u128::from(most);
    let eighths = usize::try_from(eighths).unwrap_or(usize::MAX).max(1);
    out.extend(std::iter::repeat_n('█', eighths / 8));
    let part = (eighths % 8).checked_sub(1);
    out.extend(part.and_then(|part| PARTS.get(part)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["name", "count", "users"]).with_bars(1);
        for (name, count) in [
            ("view", 1600),
            ("buy, \"now\"", 800),
            ("\u{1b}[2J", 1),
            ("", 0),
        ] {
            table.row([name.to_owned(), count.to_string(), "7".to_owned()]);
        }
        table
    }

    #[test]
    fn columns_are_aligned_and_bars_fill_what_is_left() {
        let plain = "\
name        count  users
view         1600      7
buy, \"now\"    800      7
\u{fffd}[2J            1      7
                0      7
";
        assert_eq!(table().text(None), plain);
        // Too narrow for bars that say anything.
        assert_eq!(table().text(Some(33)), plain);
        let bars = "\
name        count  users
view         1600      7  ████████
buy, \"now\"    800      7  ████
\u{fffd}[2J            1      7  ▏
                0      7
";
        assert_eq!(table().text(Some(34)), bars);
        let longest = table()
            .text(Some(1000))
            .lines()
            .map(|it| it.chars().count())
            .max();
        assert_eq!(longest, Some(26 + MAX_BAR));
    }

    #[test]
    fn csv_is_quoted_and_whole() {
        assert_eq!(
            table().csv(),
            "name,count,users\nview,1600,7\n\"buy, \"\"now\"\"\",800,7\n\u{1b}[2J,1,7\n,0,7\n"
        );
    }

    #[test]
    fn wide_rows_are_cut_at_the_edge() {
        let row = |texts: [&str; 4]| texts.map(str::to_owned).to_vec();
        let table = Table::new(&["a"]).with_wide(Wide {
            header: row(["cohort", "size", "0", "1"]),
            rows: vec![row(["x", "2", "100%", "50%"])],
        });
        let whole = "cohort  size     0    1\nx          2  100%  50%\n";
        assert_eq!(table.text(None), whole);
        assert_eq!(table.text(Some(23)), whole);
        assert_eq!(table.note(Some(23)), None);
        assert_eq!(
            table.text(Some(22)),
            "cohort  size     0\nx          2  100%\n"
        );
        assert!(table.note(Some(22)).unwrap().starts_with("1 more column"));
        assert_eq!(table.text(Some(1)), "cohort  size\nx          2\n");
    }
}
