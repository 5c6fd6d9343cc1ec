//! The statements that the database answers, read from their text. Whatever is not understood whole is no statement.

use super::{
    ast::{Conflict, Expr, Item, Select, Statement},
    lex::{Token, lex},
    value::{Cell, Column, Kind},
};

/// Splits a text into its statements, each as it is written.
pub(super) fn split(sql: &str) -> Result<Vec<String>, String> {
    let tokens = lex(sql)?;
    let mut parts = Vec::new();
    let (mut start, mut seen) = (0, false);
    for (token, at) in &tokens {
        if *token == Token::Op(";") {
            if seen {
                parts.push(sql[start..*at].trim().to_owned());
            }
            (start, seen) = (at + 1, false);
        } else {
            seen = true;
        }
    }
    if seen {
        parts.push(sql[start..].trim().to_owned());
    }
    Ok(parts)
}

/// Reads one statement.
///
/// # Errors
/// What is not understood.
pub(super) fn parse(sql: &str) -> Result<Statement, String> {
    if let Some(inner) = digest_of(sql) {
        return match parse(inner)? {
            Statement::Select(select) => Ok(Statement::Digest(select)),
            _ => Err("a digest of something that is no query".to_owned()),
        };
    }
    let mut parser = Parser { tokens: lex(sql)?.into_iter().map(|(token, _)| token).collect(), at: 0, depth: 0 };
    let statement = parser.statement()?;
    parser.eat_op(";");
    match parser.peek() {
        None => Ok(statement),
        Some(more) => Err(format!("nothing is known about {more}")),
    }
}

/// The query within the one that firedrill makes of it to compute a digest (`probe::digest`).
fn digest_of(sql: &str) -> Option<&str> {
    let half = |from: u8| format!("coalesce(sum(('x' || substr(h, {from}, 16))::bit(64)::bigint::numeric), 0)::text");
    let head =
        format!("select count(*), {}, {} from (select encode(sha256(convert_to(r::text, 'UTF8')), 'hex') as h from (\n", half(1), half(17));
    sql.trim().strip_prefix(&head)?.strip_suffix("\n) as r) as hashes")
}

/// A query that is a statement for what its one function does.
fn with_effect(select: Select) -> Statement {
    if let ([Item::One(Expr::Call(name, arguments), _)], None) = (select.items.as_slice(), &select.from)
        && let [Expr::Lit(Cell::Int(n))] = arguments.as_slice()
    {
        match name.as_str() {
            "pg_try_advisory_xact_lock" => return Statement::TryLock(*n),
            "lo_create" => return Statement::CreateObject(*n),
            "lo_unlink" => return Statement::Unlink(*n),
            _ => {}
        }
    }
    Statement::Select(select)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Of nested expressions.
    depth: u32,
}

type Parsed<T> = Result<T, String>;

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn is(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(found)) if found == word)
    }

    fn eat(&mut self, word: &str) -> bool {
        let is = self.is(word);
        self.at += usize::from(is);
        is
    }

    fn eat_all(&mut self, words: &[&str]) -> bool {
        let all = words.iter().enumerate().all(|(n, word)| matches!(self.tokens.get(self.at + n), Some(Token::Word(w)) if w == word));
        self.at += if all { words.len() } else { 0 };
        all
    }

    fn eat_op(&mut self, op: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Op(found)) if *found == op);
        self.at += usize::from(is);
        is
    }

    fn want(&mut self, word: &str) -> Parsed<()> {
        if self.eat(word) { Ok(()) } else { Err(self.unknown()) }
    }

    fn want_op(&mut self, op: &str) -> Parsed<()> {
        if self.eat_op(op) { Ok(()) } else { Err(self.unknown()) }
    }

    fn unknown(&self) -> String {
        self.peek().map_or_else(|| "the statement ends too soon".to_owned(), |token| format!("nothing is known about {token}"))
    }

    fn word(&mut self) -> Parsed<String> {
        match self.peek() {
            Some(Token::Word(word) | Token::Quoted(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.unknown()),
        }
    }

    fn string(&mut self) -> Parsed<String> {
        match self.peek() {
            Some(Token::Str(text)) => {
                let text = text.clone();
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.unknown()),
        }
    }

    /// A name with or without a schema; `public` and `pg_catalog` are left out.
    fn name(&mut self) -> Parsed<String> {
        let mut name = self.word()?;
        while self.eat_op(".") {
            let part = self.word()?;
            name = if matches!(name.as_str(), "public" | "pg_catalog") { part } else { format!("{name}.{part}") };
        }
        Ok(name)
    }

    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut all = vec![one(self)?];
        while self.eat_op(",") {
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn statement(&mut self) -> Parsed<Statement> {
        match self.word()?.as_str() {
            "begin" => self.begin(),
            "start" => {
                self.want("transaction")?;
                self.begin()
            }
            "commit" | "end" => Ok(Statement::Commit),
            "rollback" | "abort" => {
                if !self.eat("to") {
                    return Ok(Statement::Rollback);
                }
                let _ = self.eat("savepoint");
                self.word().map(Statement::RollbackTo)
            }
            "savepoint" => self.word().map(Statement::Savepoint),
            "set" => self.set(),
            "select" => self.select().map(with_effect),
            "insert" => self.insert(),
            "update" => {
                let table = self.name()?;
                self.want("set")?;
                let set = self.list(Self::assignment)?;
                Ok(Statement::Update { table, set, filter: self.filter()? })
            }
            "delete" => {
                self.want("from")?;
                Ok(Statement::Delete { table: self.name()?, filter: self.filter()? })
            }
            "create" => self.create(),
            "drop" => self.drop(),
            "comment" => {
                self.want("on")?;
                if self.eat_all(&["large", "object"]) {
                    let Some(&Token::Num(oid)) = self.peek() else { return Err(self.unknown()) };
                    self.at += 1;
                    self.want("is")?;
                    let text = if self.eat("null") { None } else { Some(self.string()?) };
                    return Ok(Statement::CommentObject { oid, text });
                }
                self.want("table")?;
                let table = self.name()?;
                self.want("is")?;
                let text = if self.eat("null") { None } else { Some(self.string()?) };
                Ok(Statement::Comment { table, text })
            }
            "checkpoint" => Ok(Statement::Housekeeping("CHECKPOINT")),
            "analyze" => Ok(Statement::Housekeeping("ANALYZE")),
            other => Err(format!("nothing is known about `{other}`")),
        }
    }

    fn begin(&mut self) -> Parsed<Statement> {
        let mut read_only = false;
        let _ = self.eat("transaction") || self.eat("work");
        loop {
            if self.eat_all(&["read", "only"]) {
                read_only = true;
            } else if self.eat_all(&["isolation", "level"]) {
                let known = self.eat_all(&["repeatable", "read"]) || self.eat_all(&["read", "committed"]) || self.eat("serializable");
                if !known {
                    return Err(self.unknown());
                }
            } else if !(self.eat_all(&["read", "write"]) || self.eat_op(",")) {
                return Ok(Statement::Begin { read_only });
            }
        }
    }

    fn set(&mut self) -> Parsed<Statement> {
        if self.eat_all(&["constraints", "all"]) {
            return if self.eat("immediate") { Ok(Statement::Housekeeping("SET CONSTRAINTS")) } else { Err(self.unknown()) };
        }
        let _ = self.eat("local") || self.eat("session");
        let name = self.word()?;
        if !(self.eat_op("=") || self.eat("to")) {
            return Err(self.unknown());
        }
        let value = match self.peek() {
            Some(Token::Str(text) | Token::Word(text)) => text.clone(),
            Some(Token::Num(number)) => number.to_string(),
            _ => return Err(self.unknown()),
        };
        self.at += 1;
        let known = ["statement_timeout", "lock_timeout", "timezone", "datestyle", "intervalstyle", "extra_float_digits", "bytea_output"];
        let known = known.contains(&name.as_str())
            || ["xmlbinary", "application_name", "idle_in_transaction_session_timeout"].contains(&name.as_str());
        if known { Ok(Statement::Set { name, value }) } else { Err(format!("nothing is known about the setting `{name}`")) }
    }

    fn select(&mut self) -> Parsed<Select> {
        let items = self.items()?;
        let from = if self.eat("from") { Some(self.name()?) } else { None };
        let filter = self.filter()?;
        if self.eat_all(&["union", "all"]) {
            self.want("select")?;
            let union = Some(Box::new(self.select()?));
            return Ok(Select { items, from, filter, order: Vec::new(), limit: None, union });
        }
        let mut order = Vec::new();
        if self.eat_all(&["order", "by"]) {
            order = self.list(|p| {
                let by = p.expr()?;
                let down = p.eat("desc");
                let _ = p.eat("asc");
                Ok((by, down))
            })?;
        }
        let limit = if self.eat("limit") { Some(self.expr()?) } else { None };
        Ok(Select { items, from, filter, order, limit, union: None })
    }

    fn items(&mut self) -> Parsed<Vec<Item>> {
        self.list(|p| {
            if p.eat_op("*") {
                return Ok(Item::All);
            }
            let expr = p.expr()?;
            let alias = if p.eat("as") { Some(p.word()?) } else { None };
            Ok(Item::One(expr, alias))
        })
    }

    fn filter(&mut self) -> Parsed<Option<Expr>> {
        if self.eat("where") { self.expr().map(Some) } else { Ok(None) }
    }

    fn assignment(&mut self) -> Parsed<(String, Expr)> {
        let column = self.word()?;
        self.want_op("=")?;
        Ok((column, self.expr()?))
    }

    fn insert(&mut self) -> Parsed<Statement> {
        self.want("into")?;
        let table = self.name()?;
        self.want_op("(")?;
        let columns = self.list(Self::word)?;
        self.want_op(")")?;
        self.want("values")?;
        let rows = self.list(|p| {
            p.want_op("(")?;
            let row = p.list(Self::expr)?;
            p.want_op(")")?;
            Ok(row)
        })?;
        if rows.iter().any(|row| row.len() != columns.len()) {
            return Err("a row of another length than the list of columns".to_owned());
        }
        let mut conflict = None;
        if self.eat_all(&["on", "conflict"]) {
            let on = if self.eat_op("(") {
                let on = self.word()?;
                self.want_op(")")?;
                Some(on)
            } else {
                None
            };
            self.want("do")?;
            conflict = Some(if self.eat("nothing") {
                Conflict::Nothing
            } else {
                self.want("update")?;
                self.want("set")?;
                let on = on.ok_or_else(|| "an update on a conflict of no column".to_owned())?;
                Conflict::Update(on, self.list(Self::assignment)?)
            });
        }
        let returning = if self.eat("returning") { self.items()? } else { Vec::new() };
        Ok(Statement::Insert { table, columns, rows, conflict, returning })
    }

    fn create(&mut self) -> Parsed<Statement> {
        if self.eat("schema") {
            return Ok(Statement::CreateSchema { name: self.word()? });
        }
        self.want("table")?;
        let name = self.name()?;
        self.want_op("(")?;
        let columns = self.list(Self::column)?;
        self.want_op(")")?;
        Ok(Statement::CreateTable { name, columns })
    }

    fn column(&mut self) -> Parsed<Column> {
        let name = self.word()?;
        let kind = match self.word()?.as_str() {
            "bigint" | "integer" | "int" | "int8" | "int4" => Kind::Int,
            "text" => Kind::Text,
            "boolean" => Kind::Bool,
            "timestamptz" => Kind::Time,
            other => return Err(format!("nothing is known about the type `{other}`")),
        };
        let mut column = Column::new(&name, kind);
        loop {
            if self.eat_all(&["not", "null"]) {
                column.not_null = true;
            } else if self.eat_all(&["primary", "key"]) {
                (column.not_null, column.unique) = (true, true);
            } else if self.eat("unique") {
                column.unique = true;
            } else if self.eat_all(&["generated", "always", "as", "identity"]) {
                (column.not_null, column.identity) = (true, true);
            } else if self.eat("default") {
                if !(self.eat("now") && self.eat_op("(") && self.eat_op(")")) {
                    return Err(self.unknown());
                }
                column.now = true;
            } else {
                return Ok(column);
            }
        }
    }

    fn drop(&mut self) -> Parsed<Statement> {
        let schema = self.eat("schema");
        if !schema {
            self.want("table")?;
        }
        let if_exists = self.eat_all(&["if", "exists"]);
        let name = self.name()?;
        Ok(if schema { Statement::DropSchema { name, if_exists } } else { Statement::DropTable { name, if_exists } })
    }

    fn expr(&mut self) -> Parsed<Expr> {
        if self.depth >= 64 {
            return Err("an expression that is nested too deeply".to_owned());
        }
        self.depth += 1;
        let expr = self.binary(0);
        self.depth -= 1;
        expr
    }

    /// By precedence, the loosest first.
    fn binary(&mut self, level: usize) -> Parsed<Expr> {
        const LEVELS: [&[&str]; 6] = [&["or"], &["and"], &["not"], &["=", "<>", "<", "<=", ">", ">="], &["+", "-", "||"], &["*", "/", "%"]];
        if level == LEVELS.len() {
            return self.cast();
        }
        if level == 2 {
            return if self.eat("not") { Ok(Expr::Not(Box::new(self.binary(2)?))) } else { self.binary(3) };
        }
        let mut left = self.binary(level + 1)?;
        'more: loop {
            if level == 3 && self.eat("is") {
                let not = self.eat("not");
                self.want("null")?;
                left = Expr::IsNull(Box::new(left), !not);
                continue;
            }
            for op in LEVELS[level] {
                if self.eat_op(op) || (level < 2 && self.eat(op)) {
                    left = Expr::Binary(op, Box::new(left), Box::new(self.binary(level + 1)?));
                    continue 'more;
                }
            }
            return Ok(left);
        }
    }

    fn cast(&mut self) -> Parsed<Expr> {
        let mut expr = self.primary()?;
        while self.eat_op("::") {
            expr = Expr::Cast(Box::new(expr), self.word()?);
        }
        Ok(expr)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let Some(token) = self.peek().cloned() else { return Err(self.unknown()) };
        match token {
            Token::Op("(") => {
                self.at += 1;
                let expr = if self.eat("select") { Expr::Sub(Box::new(self.select()?)) } else { self.expr()? };
                self.want_op(")")?;
                Ok(expr)
            }
            Token::Op("-") => {
                self.at += 1;
                Ok(Expr::Binary("-", Box::new(Expr::Lit(Cell::Int(0))), Box::new(self.primary()?)))
            }
            Token::Num(number) => {
                self.at += 1;
                Ok(Expr::Lit(Cell::Int(number)))
            }
            Token::Str(text) => {
                self.at += 1;
                Ok(Expr::Lit(Cell::text(text)))
            }
            Token::Param(n) => {
                self.at += 1;
                Ok(Expr::Param(n))
            }
            Token::Word(word) => match word.as_str() {
                "null" | "true" | "false" => {
                    self.at += 1;
                    Ok(Expr::Lit(match word.as_str() {
                        "null" => Cell::Null,
                        other => Cell::Bool(other == "true"),
                    }))
                }
                "case" => self.case(),
                _ => self.named(),
            },
            Token::Quoted(_) => self.named(),
            Token::Op(_) => Err(self.unknown()),
        }
    }

    fn case(&mut self) -> Parsed<Expr> {
        self.want("case")?;
        let mut arms = Vec::new();
        while self.eat("when") {
            let condition = self.expr()?;
            self.want("then")?;
            arms.push((condition, self.expr()?));
        }
        let otherwise = if self.eat("else") { self.expr()? } else { Expr::Lit(Cell::Null) };
        self.want("end")?;
        Ok(Expr::Case(arms, Box::new(otherwise)))
    }

    /// A column or a call.
    fn named(&mut self) -> Parsed<Expr> {
        let name = self.name()?;
        if self.eat_op("(") {
            if name == "count" && self.eat_op("*") {
                self.want_op(")")?;
                return Ok(Expr::CountAll);
            }
            if name == "extract" {
                let field = Expr::Lit(Cell::text(self.word()?));
                self.want("from")?;
                let of = self.expr()?;
                self.want_op(")")?;
                return Ok(Expr::Call(name, vec![field, of]));
            }
            let arguments = if self.eat_op(")") {
                Vec::new()
            } else {
                let arguments = self.list(Self::expr)?;
                self.want_op(")")?;
                arguments
            };
            return Ok(Expr::Call(name, arguments));
        }
        match name.rsplit_once('.') {
            Some(("excluded", column)) => Ok(Expr::Excluded(column.to_owned())),
            Some((_, column)) => Ok(Expr::Column(column.to_owned())),
            None => Ok(Expr::Column(name)),
        }
    }
}
