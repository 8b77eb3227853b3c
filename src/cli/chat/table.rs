//! Tables of Markdown, shown when they are complete.

use super::inline::spans;
use super::wrap::{Style, Wrap, width};

/// Blanks between columns.
const GAP: &str = "  ";

/// Rows are held back up to this many bytes; longer tables are shown as written.
const MOST_BYTES: usize = 64 * 1024;

/// The rows of a table so far, as written.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<String>,
    bytes: usize,
}

impl Table {
    pub(super) fn push(&mut self, row: &str) {
        self.bytes += row.len();
        self.rows.push(row.to_owned());
    }

    /// Whether it has as many rows as are held back.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MOST_BYTES
    }

    /// Shows the table and forgets it: aligned if it is one and fits the line, else as written.
    pub(super) fn show(&mut self, wrap: &mut Wrap, base: Style) {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let is_table = rows.get(1).is_some_and(|row| is_delimiter(row));
        if !(is_table && wrap.is_styled() && show_aligned(&rows, wrap, base)) {
            for row in rows {
                wrap.raw(&row, base);
                wrap.line_end();
            }
        }
    }
}

/// The cells of a row.
fn cells(row: &str) -> Vec<&str> {
    let row = row.trim();
    let row = row.strip_prefix('|').unwrap_or(row);
    let row = row.strip_suffix('|').unwrap_or(row);
    row.split('|').map(str::trim).collect()
}

/// Whether it is the row below the head, such as `|---|:-:|`.
fn is_delimiter(row: &str) -> bool {
    cells(row).iter().all(|cell| {
        let dashes = cell.trim_start_matches(':').trim_end_matches(':');
        !dashes.is_empty() && dashes.bytes().all(|byte| byte == b'-')
    })
}

/// Shows the rows in columns; returns false, and shows nothing, if they do not fit.
fn show_aligned(rows: &[String], wrap: &mut Wrap, base: Style) -> bool {
    let to_right: Vec<bool> =
        cells(&rows[1]).iter().map(|cell| cell.ends_with(':') && !cell.starts_with(':')).collect();
    let head = Style { bold: true, ..base };
    let shown: Vec<Vec<_>> = rows
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != 1)
        .map(|(at, row)| {
            let style = if at == 0 { head } else { base };
            cells(row).iter().map(|cell| spans(cell, 0, true, style).0).collect()
        })
        .collect();
    let wide = |cell: &Vec<super::inline::Span>| cell.iter().map(|(text, _)| width(text)).sum();
    let count = shown.iter().map(Vec::len).max().unwrap_or_default();
    let columns: Vec<usize> = (0..count)
        .map(|at| shown.iter().filter_map(|row| row.get(at)).map(wide).max().unwrap_or_default())
        .collect();
    let total = columns.iter().sum::<usize>() + GAP.len() * count.saturating_sub(1);
    if total > wrap.columns() {
        return false;
    }
    for (number, row) in shown.iter().enumerate() {
        for (at, cell) in row.iter().enumerate() {
            let blanks = " ".repeat(columns[at].saturating_sub(wide(cell)));
            let is_right = to_right.get(at).copied().unwrap_or_default();
            if at > 0 {
                wrap.raw(GAP, base);
            }
            if is_right {
                wrap.raw(&blanks, base);
            }
            for (text, style) in cell {
                wrap.raw(text, *style);
            }
            if !is_right && at + 1 < row.len() {
                wrap.raw(&blanks, base);
            }
        }
        wrap.line_end();
        if number == 0 {
            wrap.raw(&"─".repeat(total), Style { dim: true, ..base });
            wrap.line_end();
        }
    }
    true
}
