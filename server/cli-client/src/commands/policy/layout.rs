//! HCL with its comments, and the one layout it is written in.
//!
//! The server's own parser drops comments, which must survive here; so this reads HCL into a tree
//! that keeps them. Lines that follow each other are aligned at their equals signs; what takes
//! several lines has an empty line around it.

/// Deeper nesting than any policy has; more is refused.
const MAX_DEPTH: usize = 16;

/// What stands between two braces, or in the whole file.
#[derive(Default)]
pub struct Body {
    pub items: Vec<Item>,
    /// Comments behind the last item.
    trailing: Vec<String>,
}

/// `key = value`, `key "label" { … }`.
pub struct Item {
    comments: Vec<String>,
    keys: Vec<String>,
    assigned: bool,
    pub value: Value,
    /// The comment behind it on its line.
    beside: Option<String>,
    pub line: usize,
    last_line: usize,
}

pub enum Value {
    Literal(String),
    List(List),
    Object(Body),
}

/// `[a, b]`.
pub struct List {
    pub entries: Vec<Entry>,
    /// One entry a line, as it was written.
    spread: bool,
}

pub struct Entry {
    comments: Vec<String>,
    pub value: Value,
    beside: Option<String>,
}

pub fn parse(source: &str) -> Result<Body, String> {
    let mut reader = Reader { tokens: tokens(source)?, at: 0 };
    let body = reader.body(0)?;
    match reader.peek() {
        None => Ok(body),
        Some(token) => Err(format!("at line {}: unexpected {:?}", token.line, token.text)),
    }
}

struct Token {
    kind: Kind,
    text: String,
    line: usize,
    last_line: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Text,
    Mark,
    Comment,
}

fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = match first {
            '\n' => {
                line += 1;
                rest = &rest[1..];
                continue;
            }
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                continue;
            }
            '#' => (Kind::Comment, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("//") => (Kind::Comment, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => match rest.find("*/") {
                Some(end) => (Kind::Comment, end + 2),
                None => return Err(format!("at line {line}: a comment without its end")),
            },
            '"' => (Kind::Text, quoted(rest).ok_or_else(|| format!("at line {line}: a text without its end"))?),
            '<' if rest.starts_with("<<") => {
                (Kind::Text, heredoc(rest).ok_or_else(|| format!("at line {line}: a text without its end"))?)
            }
            '{' | '}' | '[' | ']' | '=' | ',' => (Kind::Mark, 1),
            c if c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+') => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+')));
                (Kind::Word, end.unwrap_or(rest.len()))
            }
            c => return Err(format!("at line {line}: illegal character {c:?}")),
        };
        let text = rest[..length].trim_end_matches('\r').to_string();
        let last_line = line + text.matches('\n').count();
        tokens.push(Token { kind, text, line, last_line });
        line = last_line;
        rest = &rest[length..];
    }
    Ok(tokens)
}

/// The length of a text in quotes.
fn quoted(rest: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(i + 1),
            '\n' => return None,
            _ => {}
        }
    }
    None
}

/// The length of a text between `<<WORD` and a line with the word.
fn heredoc(rest: &str) -> Option<usize> {
    let word = rest.lines().next()?.trim_start_matches("<<").trim_start_matches('-').trim();
    let mut at = rest.find('\n')? + 1;
    for line in rest[at..].split_inclusive('\n') {
        if line.trim() == word {
            return Some(at + line.trim_end_matches('\n').len());
        }
        at += line.len();
    }
    None
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn is_mark(&self, mark: &str) -> bool {
        self.peek().is_some_and(|t| t.kind == Kind::Mark && t.text == mark)
    }

    fn next(&mut self, wanted: &str) -> Result<&Token, String> {
        self.at += 1;
        let token = self.tokens.get(self.at - 1);
        token.ok_or_else(|| format!("the file ends where {wanted} should be"))
    }

    fn expect(&mut self, mark: &str) -> Result<usize, String> {
        let token = self.next(mark)?;
        match token.kind == Kind::Mark && token.text == mark {
            true => Ok(token.line),
            false => Err(format!("at line {}: expected {mark}, got {:?}", token.line, token.text)),
        }
    }

    fn comments(&mut self) -> Vec<String> {
        let mut comments = Vec::new();
        while let Some(token) = self.peek().filter(|t| t.kind == Kind::Comment) {
            comments.push(token.text.clone());
            self.at += 1;
        }
        comments
    }

    /// A comment that begins on this line.
    fn beside(&mut self, line: usize) -> Option<String> {
        let text = self.peek().filter(|t| t.kind == Kind::Comment && t.line == line)?.text.clone();
        self.at += 1;
        Some(text)
    }

    fn body(&mut self, depth: usize) -> Result<Body, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".to_string());
        }
        let mut body = Body::default();
        loop {
            let comments = self.comments();
            match self.peek() {
                Some(token) if !(token.kind == Kind::Mark && token.text == "}") => {
                    let item = self.item(comments, depth)?;
                    body.items.push(item);
                }
                _ => {
                    body.trailing = comments;
                    return Ok(body);
                }
            }
        }
    }

    fn item(&mut self, comments: Vec<String>, depth: usize) -> Result<Item, String> {
        let mut keys = Vec::new();
        let line = self.peek().map_or(0, |t| t.line);
        while let Some(token) = self.peek().filter(|t| matches!(t.kind, Kind::Word | Kind::Text)) {
            keys.push(token.text.clone());
            self.at += 1;
        }
        if keys.is_empty() {
            let token = self.next("a key")?;
            return Err(format!("at line {}: expected a key, got {:?}", token.line, token.text));
        }
        let assigned = self.is_mark("=");
        if assigned {
            self.at += 1;
        }
        if !assigned && !self.is_mark("{") {
            let token = self.next("= or {")?;
            return Err(format!("at line {}: expected = or {{, got {:?}", token.line, token.text));
        }
        let (value, last_line) = self.value(depth)?;
        if self.is_mark(",") {
            self.at += 1;
        }
        let beside = self.beside(last_line);
        Ok(Item { comments, keys, assigned, value, beside, line, last_line })
    }

    /// A value and the line that it ends on.
    fn value(&mut self, depth: usize) -> Result<(Value, usize), String> {
        if self.is_mark("{") {
            self.at += 1;
            let body = self.body(depth + 1)?;
            return Ok((Value::Object(body), self.expect("}")?));
        }
        if self.is_mark("[") {
            return self.list(depth);
        }
        let token = self.next("a value")?;
        match token.kind {
            Kind::Word | Kind::Text => Ok((Value::Literal(token.text.clone()), token.last_line)),
            _ => Err(format!("at line {}: expected a value, got {:?}", token.line, token.text)),
        }
    }

    fn list(&mut self, depth: usize) -> Result<(Value, usize), String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".to_string());
        }
        let first_line = self.expect("[")?;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let comments = self.comments();
            if self.is_mark("]") {
                if let (Some(last), false) = (entries.last_mut(), comments.is_empty()) {
                    last.beside.get_or_insert_with(|| comments.join(" "));
                }
                break;
            }
            let (value, line) = self.value(depth + 1)?;
            let early = self.beside(line);
            let comma = self.is_mark(",");
            if comma {
                self.at += 1;
            }
            let beside = early.or_else(|| self.beside(line));
            entries.push(Entry { comments, value, beside });
            if !comma && !self.is_mark("]") && self.peek().is_none_or(|t| t.kind != Kind::Comment) {
                let token = self.next("]")?;
                return Err(format!("at line {}: expected a comma or ], got {:?}", token.line, token.text));
            }
        }
        let last_line = self.expect("]")?;
        let spread = last_line > first_line && !entries.is_empty();
        Ok((Value::List(List { entries, spread }), last_line))
    }
}

impl Item {
    /// The first key, without quotes.
    pub fn name(&self) -> &str {
        self.keys[0].trim_matches('"')
    }

    /// The second key, without quotes; the empty text where there is none.
    pub fn label(&self) -> String {
        self.keys.get(1).map(|k| k.trim_matches('"').to_string()).unwrap_or_default()
    }

    /// Whether it is written in one line and may be aligned with its neighbours.
    fn is_short(&self) -> bool {
        self.assigned && !self.value.text(0).contains('\n')
    }
}

impl Body {
    /// The whole file.
    pub fn text(&self) -> String {
        let text = self.lines(0);
        if text.is_empty() { "\n".to_string() } else { text }
    }

    fn lines(&self, level: usize) -> String {
        let pad = "  ".repeat(level);
        let mut out = String::new();
        let mut rest = &self.items[..];
        while !rest.is_empty() {
            let count = run_of_short(rest);
            if !out.is_empty() {
                out.push('\n');
            }
            let (group, behind) = rest.split_at(count);
            out.push_str(&group_text(group, level));
            rest = behind;
        }
        if !self.trailing.is_empty() && !out.is_empty() {
            out.push('\n');
        }
        for comment in &self.trailing {
            out.push_str(&format!("{pad}{comment}\n"));
        }
        out
    }
}

/// How many items from the first one on are aligned: short ones on lines that follow each other.
fn run_of_short(items: &[Item]) -> usize {
    if !items[0].is_short() {
        return 1;
    }
    let follows = |pair: &[Item]| {
        let own_lines = pair[1].comments.iter().map(|c| 1 + c.matches('\n').count()).sum::<usize>();
        pair[1].is_short() && pair[1].line <= pair[0].last_line + 1 + own_lines
    };
    1 + items.windows(2).take_while(|pair| follows(pair)).count()
}

fn group_text(group: &[Item], level: usize) -> String {
    let pad = "  ".repeat(level);
    let key = |item: &Item| item.keys.join(" ");
    let widest_key = group.iter().map(|i| key(i).chars().count()).max().unwrap_or(0);
    let value = |item: &Item| item.value.text(level);
    let widest_value = group.iter().map(|i| value(i).chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for item in group {
        for comment in &item.comments {
            out.push_str(&format!("{pad}{comment}\n"));
        }
        let (key, value) = (key(item), value(item));
        let equals = match (item.assigned, group.len()) {
            (false, _) => String::new(),
            (true, 1) => "= ".to_string(),
            (true, _) => format!("{}= ", " ".repeat(widest_key - key.chars().count())),
        };
        out.push_str(&format!("{pad}{key} {equals}{value}"));
        if let Some(comment) = &item.beside {
            // Comments of neighbours stand below each other.
            let gap = if group.len() > 1 { widest_value - value.chars().count() + 1 } else { 1 };
            out.push_str(&format!("{}{comment}", " ".repeat(gap)));
        }
        out.push('\n');
    }
    out
}

impl Value {
    /// The value as it stands behind its key, at a level of the file.
    pub fn text(&self, level: usize) -> String {
        match self {
            Value::Literal(text) => text.clone(),
            Value::Object(body) if body.items.is_empty() && body.trailing.is_empty() => "{}".to_string(),
            Value::Object(body) => format!("{{\n{}{}}}", body.lines(level + 1), "  ".repeat(level)),
            Value::List(list) => list.text(level),
        }
    }
}

impl List {
    fn text(&self, level: usize) -> String {
        let commented = self.entries.iter().any(|e| !e.comments.is_empty() || e.beside.is_some());
        if !self.spread && !commented {
            let entries: Vec<String> = self.entries.iter().map(|e| e.value.text(level)).collect();
            return format!("[{}]", entries.join(", "));
        }
        let pad = "  ".repeat(level + 1);
        let mut out = String::from("[\n");
        for entry in &self.entries {
            for comment in &entry.comments {
                out.push_str(&format!("{pad}{comment}\n"));
            }
            let beside = entry.beside.as_ref().map(|c| format!(" {c}")).unwrap_or_default();
            out.push_str(&format!("{pad}{},{beside}\n", entry.value.text(level + 1)));
        }
        out.push_str(&"  ".repeat(level));
        out.push(']');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(source: &str) -> String {
        parse(source).unwrap().text()
    }

    #[test]
    fn blocks_stand_apart_and_comments_stay() {
        let source =
            "path   \"a/*\"   {capabilities=[\"read\",\"list\"]}\n# a comment\npath \"b\" {\n policy=\"write\"\n}";
        let expected = "path \"a/*\" {\n  capabilities = [\"read\", \"list\"]\n}\n\n# a comment\npath \"b\" {\n  policy = \"write\"\n}\n";
        assert_eq!(formatted(source), expected);
        assert_eq!(formatted(expected), expected);
    }

    #[test]
    fn neighbours_are_aligned_and_long_values_stand_apart() {
        let source = "path \"a\" {\n a=1\n long=[\"x\"] # why\n m = {\n \"k\"=[]\n }\n}\n";
        let expected = "path \"a\" {\n  a    = 1\n  long = [\"x\"] # why\n\n  m = {\n    \"k\" = []\n  }\n}\n";
        assert_eq!(formatted(source), expected);
    }

    #[test]
    fn a_list_over_several_lines_stays_so() {
        let source = "path \"a\" {\n capabilities = [\n\"read\", # first\n\"list\"\n]\n}";
        let expected = "path \"a\" {\n  capabilities = [\n    \"read\", # first\n    \"list\",\n  ]\n}\n";
        assert_eq!(formatted(source), expected);
    }

    #[test]
    fn what_is_no_hcl_is_refused() {
        for source in
            ["{\"path\": {}}", "path \"a\" {", "path \"a\" { capabilities = [\"read\" }", "path \"a", "x y", "}"]
        {
            assert!(parse(source).is_err(), "{source}");
        }
        let deep = "a {".repeat(100);
        assert!(parse(&deep).is_err());
    }
}
