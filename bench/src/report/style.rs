//! The style of text in a terminal: its width and colours.

use console::{Term, colors_enabled};

/// Width of a table that is written to a file or a pipe.
const COLUMNS_PIPED: usize = 140;

/// Narrowest supported terminal.
const COLUMNS_MIN: usize = 60;

/// The destination of text. Colours only repeat information that the words contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Characters per line.
    pub columns: usize,
    is_coloured: bool,
}

impl Style {
    /// For standard output: its width, and colours if it is a terminal that accepts them (`NO_COLOR`, `CLICOLOR`).
    pub fn of_stdout() -> Self {
        Self::of(&Term::stdout(), colors_enabled())
    }

    /// For standard error.
    pub fn of_stderr() -> Self {
        Self::of(&Term::stderr(), console::colors_enabled_stderr())
    }

    fn of(term: &Term, wants_colours: bool) -> Self {
        let columns = term.size_checked().map_or(COLUMNS_PIPED, |(_, columns)| columns.into());
        Self { columns: columns.max(COLUMNS_MIN), is_coloured: wants_colours && term.is_term() }
    }

    /// Without colours, with this width.
    pub fn plain(columns: usize) -> Self {
        Self { columns, is_coloured: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Emphasised.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// De-emphasised.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// For a good value.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// For a minor problem.
    pub fn minor(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// For a bad value.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// For a bar of a chart.
    pub fn bar(self, text: &str) -> String {
        self.paint("36", text)
    }
}

/// `text` in lines of at most `columns`, each indented by `indent` blanks; a longer word gets a line of its own.
pub fn indented(text: &str, indent: usize, columns: usize) -> String {
    let mut lines = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let word_len = word.chars().count();
        if used > indent && used + 1 + word_len > columns {
            lines.push('\n');
            used = 0;
        }
        if used == 0 {
            lines.push_str(&" ".repeat(indent));
            used = indent;
        } else {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += word_len;
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_has_no_codes() {
        let plain = Style::plain(80);
        assert_eq!(plain.bad("x") + &plain.bold("y") + &plain.bar("z"), "xyz");
        let coloured = Style { columns: 80, is_coloured: true };
        assert!(coloured.bad("x").starts_with('\x1b') && coloured.bad("x").ends_with("\x1b[0m"));
    }

    #[test]
    fn lines_are_bounded() {
        let text = indented("one two three four", 2, 9);
        assert_eq!(text, "  one two\n  three\n  four\n");
        assert_eq!(indented("averylongword x", 2, 6), "  averylongword\n  x\n");
    }
}
