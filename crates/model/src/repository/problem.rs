//! A broken rule of the repository, tied to the line that breaks it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, NamedSource,
    SourceCode, SourceSpan, SpanContents,
};
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::FILE;

/// What is wrong with a `bramble.toml` that is longer than what is judged, and what to do.
pub(crate) const TOO_LONG: &str = "is longer than 1 MiB";
pub(crate) const PLAIN: &str = "write it as a plain file of at most 1 MiB, in the repository itself";

/// So many columns of a line are shown.
const COLUMNS: usize = 120;
/// So many letters of a message: of a longer one its beginning and its end.
const LETTERS: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Error,
    Warning,
}

/// What is wrong, where, what was expected and what to do.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    pub severity: Severity,
    pub file: String,
    /// From 1; 0 where the file has no such line (a missing file).
    pub line: usize,
    pub column: usize,
    /// The key, dotted: `nodes.m1.mac`.
    pub key: String,
    pub message: String,
    pub help: Option<String>,
    #[serde(skip)]
    span: Range<usize>,
    #[serde(skip)]
    source: Option<Excerpt>,
}

/// What is shown of a file. Its lines are the file's; a long one is cut, and its column is still the file's.
#[derive(Debug, Clone)]
struct Excerpt {
    text: NamedSource<String>,
    /// Of the span, from 0.
    column: usize,
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let found = self.text.read_span(span, before, after)?;
        if (before, after) != (0, 0) {
            return Ok(found);
        }
        // Without lines around it, it is asked for where the span is.
        Ok(Box::new(MietteSpanContents::new_named(
            self.text.name().to_owned(),
            found.data(),
            *found.span(),
            found.line(),
            self.column,
            found.line_count(),
        )))
    }
}

/// Everything that is wrong, in the order of the file.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

/// `bramble.toml` with the places of its keys.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

impl Source {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        Source { name: path.display().to_string(), text: text.to_owned() }
    }

    /// The bytes of the value at `key`, or of the nearest table around it that is written.
    fn locate(&self, key: &[&str]) -> Range<usize> {
        let Ok(document) = DeTable::parse(&self.text) else { return 0..0 };
        let mut span = 0..0;
        let mut table: &DeTable<'_> = document.get_ref();
        let mut list: Option<&[Spanned<DeValue<'_>>]> = None;
        for part in key {
            let value = match list {
                Some(items) => part.parse().ok().and_then(|index: usize| items.get(index)),
                None => match table.get_key_value(*part) {
                    Some((name, value)) => {
                        span = name.span();
                        Some(value)
                    }
                    None => None,
                },
            };
            let Some(value) = value else { break };
            list = None;
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                DeValue::Array(items) => {
                    list = Some(items);
                    span = value.span();
                }
                _ => span = value.span(),
            }
        }
        span
    }

    /// A problem with the value at `key`.
    pub(super) fn problem(&self, key: &[&str], message: impl Into<String>) -> Problem {
        self.problem_at(self.locate(key), key.join("."), message)
    }

    pub(super) fn problem_at(&self, span: Range<usize>, key: String, message: impl Into<String>) -> Problem {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let (text, span) = windowed(&plain(&self.text), span);
        Problem {
            severity: Severity::Error,
            file: self.name.clone(),
            line,
            column,
            key: shown(&key, COLUMNS),
            message: shown(&message.into(), LETTERS),
            help: None,
            span,
            source: Some(Excerpt { text: NamedSource::new(&self.name, text), column: column - 1 }),
        }
    }
}

impl Problem {
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(shown(&help.into(), LETTERS));
        self
    }

    /// Adds "did you mean" where one of `known` is near to `written`, else lists them.
    pub(super) fn near(self, written: &str, known: &[&str]) -> Self {
        match near_miss(written, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None if known.is_empty() => self,
            None => {
                let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
                self.help(format!("expected one of {}", known.join(", ")))
            }
        }
    }

    pub(super) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

/// A person reads it on a terminal, and a commit's author may have written it: what moves a cursor is named, and of what
/// is longer than anyone reads the middle is left out.
fn shown(text: &str, most: usize) -> String {
    let named = |c: char| {
        if c.is_control() && c != '\n' { c.escape_unicode().to_string() } else { c.to_string() }
    };
    let letters = text.chars().count();
    if letters <= most {
        return text.chars().map(named).collect();
    }
    let (begins, ends) = (text.chars().take(most / 2), text.chars().skip(letters - most / 2));
    begins.map(named).chain([" … ".to_owned()]).chain(ends.map(named)).collect()
}

/// A text whose long lines are cut: that in which `span` begins to what is around it, and others to their beginning. Gives
/// where the span is in it, too.
fn windowed(text: &str, span: Range<usize>) -> (String, Range<usize>) {
    let (mut cut, mut at) = (String::with_capacity(text.len()), 0);
    let (mut start, mut end) = (None, None);
    for line in text.split_inclusive('\n') {
        let content = line.strip_suffix('\n').unwrap_or(line);
        let here = |place: usize| place.checked_sub(at).filter(|place| *place < line.len());
        let kept = window(content, here(span.start).unwrap_or(0));
        let before = if kept.start > 0 { "…" } else { "" };
        let moved = |place: usize| cut.len() + before.len() + place.clamp(kept.start, kept.end) - kept.start;
        start = start.or(here(span.start).map(moved));
        end = end.or(here(span.end).map(moved));
        cut += before;
        cut += &content[kept.clone()];
        cut += if kept.end < content.len() { "…" } else { "" };
        cut += &line[content.len()..];
        at += line.len();
    }
    let start = start.unwrap_or(cut.len());
    let end = end.unwrap_or(cut.len()).max(start);
    (cut, start..end)
}

/// The bytes of a line that are shown where byte `place` matters.
fn window(line: &str, place: usize) -> Range<usize> {
    let letters = line.chars().count();
    if letters <= COLUMNS {
        return 0..line.len();
    }
    let column = line.char_indices().take_while(|(at, _)| *at < place).count();
    let first = column.saturating_sub(COLUMNS / 2).min(letters - COLUMNS);
    let byte = |column: usize| line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
    byte(first)..byte(first + COLUMNS)
}

/// As [`shown`], with every place where it was.
fn plain(text: &str) -> String {
    let kept = |c: char| !c.is_control() || c == '\n' || c == '\t' || c == '\r';
    text.chars().map(|c| if kept(c) { c.to_string() } else { "?".repeat(c.len_utf8()) }).collect()
}

/// The one of `known` that was probably meant.
pub(super) fn near_miss<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(written, name), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min()
        .map(|(_, name)| name)
}

impl Problems {
    /// Why `bramble.toml`, which is at this path, cannot be read, or is longer than anyone writes.
    pub(crate) fn unread(path: &Path, error: &io::Error) -> Self {
        let (message, help) = match error.kind() {
            ErrorKind::NotFound => {
                ("there is no such file".to_owned(), "name a cluster repository, or make one with `bramble init DIR`")
            }
            ErrorKind::InvalidData => ("the file is not UTF-8 text".to_owned(), "save it as UTF-8"),
            ErrorKind::FileTooLarge => (format!("{FILE}: {TOO_LONG}"), PLAIN),
            _ => (format!("cannot be read: {error}"), "make it readable for this user"),
        };
        Self::without_text(path, message, help)
    }

    /// Why there is no text of `bramble.toml`, which is at this path.
    pub(crate) fn without_text(path: &Path, message: String, help: &str) -> Self {
        let source = Source::new(path, "");
        let mut problem = source.problem_at(0..0, String::new(), message).help(help);
        problem.line = 0;
        problem.column = 0;
        problem.source = None;
        Problems(vec![problem])
    }

    /// One problem with the value at `key` of the `bramble.toml` at this path.
    pub(crate) fn at(path: &Path, text: &str, key: &[String], message: String, help: Option<&str>) -> Self {
        let key: Vec<&str> = key.iter().map(String::as_str).collect();
        let problem = Source::new(path, text).problem(&key, message);
        Problems(vec![match help {
            Some(help) => problem.help(help),
            None => problem,
        }])
    }

    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// In the order of the file, without colour unless asked.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_context_lines(1);
        let mut out = String::new();
        for problem in &self.0 {
            let rendered = handler.render_report(&mut out, problem);
            debug_assert!(rendered.is_ok());
            if problem.source.is_none() {
                out.push_str(&format!("   in {}\n", problem.file));
            }
        }
        out
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.key, self.message) }
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source.as_ref()?;
        let label = LabeledSpan::new_with_span(Some("here".into()), self.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Problems {}
