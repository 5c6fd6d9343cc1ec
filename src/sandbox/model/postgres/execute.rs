//! Statements: what they answer, and what they change. Pure: changes are given back, not made.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use super::{
    ast::{Conflict, Expr, Item, Select, Statement},
    data::{Action, Change, Row, Table, Tables},
    eval::{Answer, Facts, Scope, SqlError, aggregates, eval, kind, no_column, no_table},
    value::{Cell, Column, Kind},
};

/// The number of `pg_largeobject`.
const LARGE_OBJECTS: i64 = 2613;

/// Columns that are given back: names and kinds.
pub(super) type Heads = Vec<(String, Kind)>;

/// Rows that are given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) columns: Vec<(String, Kind)>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// What a statement comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// None: it gives no rows.
    pub(super) rows: Option<Rows>,
    /// `INSERT 0 1`
    pub(super) tag: String,
    pub(super) changes: Vec<Change>,
}

/// The columns that a statement gives, and the kinds of its parameters. Both without its values.
pub(super) fn describe(statement: &Statement, tables: &Tables) -> Answer<(Option<Heads>, Vec<Kind>)> {
    let mut params = Vec::new();
    let rows = match statement {
        Statement::Select(select) => {
            let columns = columns_of(select.from.as_deref(), tables)?;
            select.filter.iter().for_each(|filter| infer(filter, None, &columns, &mut params));
            select.limit.iter().for_each(|limit| infer(limit, Some(Kind::Int), &columns, &mut params));
            Some(heads(&select.items, &columns))
        }
        Statement::Digest(_) => {
            Some(vec![("count".to_owned(), Kind::Int), ("?column?".to_owned(), Kind::Text), ("?column?".to_owned(), Kind::Text)])
        }
        Statement::Insert { table, columns: named, rows, conflict, returning } => {
            let columns = columns_of(Some(table), tables)?;
            let of = |name: &String| columns.iter().find(|c| c.name == *name).map(|c| c.kind);
            for row in rows {
                row.iter().zip(named).for_each(|(expr, name)| infer(expr, of(name), &columns, &mut params));
            }
            if let Some(Conflict::Update(_, set)) = conflict {
                set.iter().for_each(|(name, expr)| infer(expr, of(name), &columns, &mut params));
            }
            (!returning.is_empty()).then(|| heads(returning, &columns))
        }
        Statement::Update { table, set, filter } => {
            let columns = columns_of(Some(table), tables)?;
            let of = |name: &String| columns.iter().find(|c| c.name == *name).map(|c| c.kind);
            set.iter().for_each(|(name, expr)| infer(expr, of(name), &columns, &mut params));
            filter.iter().for_each(|filter| infer(filter, None, &columns, &mut params));
            None
        }
        Statement::Delete { table, filter } => {
            let columns = columns_of(Some(table), tables)?;
            filter.iter().for_each(|filter| infer(filter, None, &columns, &mut params));
            None
        }
        _ => None,
    };
    Ok((rows, params))
}

/// Finds parameters, with the kind that is expected where they stand.
fn infer(expr: &Expr, expected: Option<Kind>, columns: &[Column], params: &mut Vec<Kind>) {
    match expr {
        Expr::Param(n) if *n < 64 => {
            if params.len() <= *n {
                params.resize(*n + 1, Kind::Text);
            }
            params[*n] = expected.unwrap_or(Kind::Text);
        }
        Expr::Binary(_, left, right) => {
            let side = |other: &Expr| if matches!(other, Expr::Param(_)) { expected } else { Some(kind(other, columns)) };
            infer(left, side(right), columns, params);
            infer(right, side(left), columns, params);
        }
        Expr::Call(_, arguments) => arguments.iter().for_each(|argument| infer(argument, expected, columns, params)),
        Expr::Cast(inner, _) | Expr::Not(inner) | Expr::IsNull(inner, _) => infer(inner, expected, columns, params),
        Expr::Case(arms, otherwise) => {
            arms.iter().for_each(|(condition, value)| {
                infer(condition, Some(Kind::Bool), columns, params);
                infer(value, expected, columns, params);
            });
            infer(otherwise, expected, columns, params);
        }
        _ => {}
    }
}

/// Runs a statement that is no command of transactions. `next`: the number of a table's next row.
pub(super) fn run(statement: &Statement, scope: Scope<'_>, next: &mut dyn FnMut(&str) -> i64) -> Answer<Outcome> {
    let (tables, facts) = (scope.tables, scope.facts);
    if facts.read_only && !matches!(statement, Statement::Select(_) | Statement::Digest(_) | Statement::Housekeeping(_)) {
        return Err(SqlError::new("25006", format!("cannot execute {} in a read-only transaction", verb(statement))));
    }
    match statement {
        Statement::Select(select) => {
            let rows = run_select(select, scope)?;
            Ok(Outcome { tag: format!("SELECT {}", rows.rows.len()), rows: Some(rows), changes: Vec::new() })
        }
        Statement::Digest(select) => {
            let rows = digest(&run_select(select, scope)?);
            Ok(Outcome { tag: "SELECT 1".to_owned(), rows: Some(rows), changes: Vec::new() })
        }
        Statement::Insert { table, columns, rows, conflict, returning } => {
            let found = table_for(tables, facts, table, Action::Insert)?;
            let mut insert =
                Insert { table, found, columns, conflict: conflict.as_ref(), scope, made: Vec::new(), changes: Vec::new(), count: 0 };
            for row in rows {
                insert.row(row, next)?;
            }
            let tag = format!("INSERT 0 {}", insert.count);
            let rows = if returning.is_empty() {
                None
            } else {
                let rows = insert.made.iter().map(|row| project(returning, &found.columns, row, scope)).collect::<Answer<Vec<_>>>()?;
                Some(Rows { columns: heads(returning, &found.columns), rows })
            };
            Ok(Outcome { rows, tag, changes: insert.changes })
        }
        Statement::Update { table, set, filter } => {
            let found = table_for(tables, facts, table, Action::Update)?;
            let mut changes = Vec::new();
            for (pos, row) in matching(found, filter.as_ref(), scope)? {
                let row = assign(found, &row, set, Scope { row: Some((&found.columns, &row)), ..scope })?;
                changes.push(Change::Put { table: table.clone(), pos, row });
            }
            Ok(Outcome { rows: None, tag: format!("UPDATE {}", changes.len()), changes })
        }
        Statement::Delete { table, filter } => {
            let found = table_for(tables, facts, table, Action::Delete)?;
            let gone = matching(found, filter.as_ref(), scope)?;
            let changes: Vec<Change> = gone.into_iter().map(|(pos, _)| Change::Gone { table: table.clone(), pos }).collect();
            Ok(Outcome { rows: None, tag: format!("DELETE {}", changes.len()), changes })
        }
        Statement::CreateTable { name, columns } => {
            let schema = name.rsplit_once('.').map_or("public", |(schema, _)| schema);
            owns_schema(tables, facts, schema)?;
            if tables.tables.contains_key(name) {
                return Err(SqlError::new("42P07", format!("relation \"{name}\" already exists")));
            }
            done("CREATE TABLE", Change::Table { name: name.clone(), columns: columns.clone(), owner: facts.user.clone() })
        }
        Statement::CreateSchema { name } => {
            if tables.schemas.contains_key(name) || name == "public" {
                return Err(SqlError::new("42P06", format!("schema \"{name}\" already exists")));
            }
            if !superuser(tables, facts) {
                return Err(SqlError::new("42501", "permission denied for database orders"));
            }
            done("CREATE SCHEMA", Change::Schema { name: name.clone(), owner: facts.user.clone() })
        }
        Statement::DropTable { name, if_exists } => match tables.tables.get(name) {
            None if *if_exists => Ok(Outcome { tag: "DROP TABLE".to_owned(), ..Outcome::default() }),
            None => Err(SqlError::new("42P01", format!("table \"{name}\" does not exist"))),
            Some(table) => {
                owns(tables, facts, table, name)?;
                done("DROP TABLE", Change::NoTable { name: name.clone() })
            }
        },
        Statement::DropSchema { name, if_exists } => {
            if !tables.schemas.contains_key(name) {
                return match if_exists {
                    true => Ok(Outcome { tag: "DROP SCHEMA".to_owned(), ..Outcome::default() }),
                    false => Err(SqlError::new("3F000", format!("schema \"{name}\" does not exist"))),
                };
            }
            owns_schema(tables, facts, name)?;
            let within = format!("{name}.");
            if tables.tables.keys().any(|table| table.starts_with(&within)) {
                return Err(SqlError::new("2BP01", format!("cannot drop schema {name} because other objects depend on it")));
            }
            done("DROP SCHEMA", Change::NoSchema { name: name.clone() })
        }
        Statement::Comment { table, text } => {
            let found = tables.tables.get(table).ok_or_else(|| no_table(table))?;
            owns(tables, facts, found, table)?;
            done("COMMENT", Change::Comment { name: table.clone(), text: text.clone() })
        }
        Statement::CreateObject(oid) => {
            if tables.objects.contains_key(oid) {
                return Err(SqlError::new("23505", "duplicate key value violates unique constraint \"pg_largeobject_metadata_oid_index\""));
            }
            object("lo_create", *oid, Change::Object { oid: *oid, owner: facts.user.clone() })
        }
        Statement::Unlink(oid) => {
            owns_object(tables, facts, *oid)?;
            object("lo_unlink", 1, Change::NoObject { oid: *oid })
        }
        Statement::CommentObject { oid, text } => {
            owns_object(tables, facts, *oid)?;
            done("COMMENT", Change::ObjectComment { oid: *oid, text: text.clone() })
        }
        Statement::Housekeeping(tag) => Ok(Outcome { tag: (*tag).to_owned(), ..Outcome::default() }),
        Statement::Begin { .. } | Statement::Commit | Statement::Rollback | Statement::Set { .. } => {
            Err(SqlError::not_rehearsable("a command of transactions here"))
        }
        Statement::Savepoint(_) | Statement::RollbackTo(_) | Statement::TryLock(_) => {
            Err(SqlError::not_rehearsable("a command of transactions here"))
        }
    }
}

fn done(tag: &str, change: Change) -> Answer<Outcome> {
    Ok(Outcome { rows: None, tag: tag.to_owned(), changes: vec![change] })
}

/// What a function answers that changes a large object.
fn object(function: &str, answer: i64, change: Change) -> Answer<Outcome> {
    let rows = Rows { columns: vec![(function.to_owned(), Kind::Int)], rows: vec![vec![Cell::Int(answer)]] };
    Ok(Outcome { rows: Some(rows), tag: "SELECT 1".to_owned(), changes: vec![change] })
}

fn owns_object(tables: &Tables, facts: &Facts, oid: i64) -> Answer<()> {
    match tables.objects.get(&oid) {
        None => Err(SqlError::new("42704", format!("large object {oid} does not exist"))),
        Some((owner, _)) if *owner == facts.user || superuser(tables, facts) => Ok(()),
        Some(_) => Err(SqlError::new("42501", format!("must be owner of large object {oid}"))),
    }
}

fn verb(statement: &Statement) -> &'static str {
    match statement {
        Statement::Insert { .. } => "INSERT",
        Statement::Update { .. } => "UPDATE",
        Statement::Delete { .. } => "DELETE",
        Statement::CreateTable { .. } => "CREATE TABLE",
        Statement::CreateSchema { .. } => "CREATE SCHEMA",
        Statement::DropTable { .. } => "DROP TABLE",
        Statement::DropSchema { .. } => "DROP SCHEMA",
        Statement::Comment { .. } | Statement::CommentObject { .. } => "COMMENT",
        Statement::CreateObject(_) => "lo_create()",
        Statement::Unlink(_) => "lo_unlink()",
        _ => "this",
    }
}

fn superuser(tables: &Tables, facts: &Facts) -> bool {
    tables.roles.get(&facts.user).is_some_and(|role| role.superuser)
}

fn owns(tables: &Tables, facts: &Facts, table: &Table, name: &str) -> Answer<()> {
    if table.owner == facts.user || superuser(tables, facts) {
        return Ok(());
    }
    Err(SqlError::new("42501", format!("must be owner of table {name}")))
}

fn owns_schema(tables: &Tables, facts: &Facts, schema: &str) -> Answer<()> {
    match tables.schemas.get(schema) {
        None if schema != "public" => Err(SqlError::new("3F000", format!("schema \"{schema}\" does not exist"))),
        Some(owner) if *owner == facts.user => Ok(()),
        _ if superuser(tables, facts) => Ok(()),
        _ => Err(SqlError::new("42501", format!("permission denied for schema {schema}"))),
    }
}

fn table_for<'a>(tables: &'a Tables, facts: &Facts, name: &str, action: Action) -> Answer<&'a Table> {
    let found = tables.tables.get(name).ok_or_else(|| no_table(name))?;
    if tables.may(&facts.user, name, action) {
        Ok(found)
    } else {
        Err(SqlError::new("42501", format!("permission denied for table {name}")))
    }
}

fn matching(table: &Table, filter: Option<&Expr>, scope: Scope<'_>) -> Answer<Vec<(i64, Row)>> {
    let mut found = Vec::new();
    for (pos, row) in table.rows() {
        if holds(filter, &table.columns, row, scope)? {
            found.push((*pos, Row::clone(row)));
        }
    }
    Ok(found)
}

fn holds(filter: Option<&Expr>, columns: &[Column], row: &[Cell], scope: Scope<'_>) -> Answer<bool> {
    let Some(filter) = filter else { return Ok(true) };
    match eval(filter, Scope { row: Some((columns, row)), ..scope })? {
        Cell::Bool(is) => Ok(is),
        Cell::Null => Ok(false),
        _ => Err(SqlError::new("42804", "argument of WHERE must be type boolean")),
    }
}

fn assign(table: &Table, row: &[Cell], set: &[(String, Expr)], scope: Scope<'_>) -> Answer<Row> {
    let mut cells = row.to_vec();
    for (name, expr) in set {
        let at = table.column(name).ok_or_else(|| no_column(name))?;
        cells[at] = eval(expr, scope)?;
    }
    checked(table, cells)
}

/// Whether the values are ones that the columns may have.
fn checked(table: &Table, cells: Vec<Cell>) -> Answer<Row> {
    for (column, cell) in table.columns.iter().zip(&cells) {
        let fits = match (column.kind, cell) {
            (_, Cell::Null) if column.not_null => {
                let why = format!("null value in column \"{}\" violates not-null constraint", column.name);
                return Err(SqlError::new("23502", why));
            }
            (_, Cell::Null)
            | (Kind::Bool, Cell::Bool(_))
            | (Kind::Int, Cell::Int(_))
            | (Kind::Text, Cell::Text(_))
            | (Kind::Time, Cell::Time(_)) => true,
            _ => false,
        };
        if !fits {
            return Err(SqlError::new("42804", format!("column \"{}\" is of another type than the value", column.name)));
        }
    }
    Ok(cells.into())
}

struct Insert<'a> {
    table: &'a str,
    found: &'a Table,
    columns: &'a [String],
    conflict: Option<&'a Conflict>,
    scope: Scope<'a>,
    made: Vec<Row>,
    changes: Vec<Change>,
    count: usize,
}

impl Insert<'_> {
    fn row(&mut self, values: &[Expr], next: &mut dyn FnMut(&str) -> i64) -> Answer<()> {
        let found = self.found;
        if let Some(unknown) = self.columns.iter().find(|name| found.column(name).is_none()) {
            return Err(no_column(unknown));
        }
        let pos = next(self.table);
        let mut cells = Vec::with_capacity(found.columns.len());
        for column in found.columns.iter() {
            let given = self.columns.iter().position(|name| *name == column.name);
            cells.push(match given {
                Some(_) if column.identity => {
                    return Err(SqlError::new("428C9", format!("cannot insert a non-DEFAULT value into column \"{}\"", column.name)));
                }
                Some(at) => eval(&values[at], self.scope)?,
                None if column.identity => Cell::Int(pos),
                None if column.now => Cell::Time(self.scope.facts.now_us),
                None => Cell::Null,
            });
        }
        let row = checked(found, cells)?;
        for (at, column) in found.columns.iter().enumerate().filter(|(_, column)| column.unique && !column.identity) {
            let Some((there, old)) = found.rows().find(|(_, old)| old[at] == row[at]) else { continue };
            match self.conflict {
                None => {
                    let why = format!("duplicate key value violates unique constraint \"{}_{}_key\"", self.table, column.name);
                    return Err(SqlError::new("23505", why));
                }
                Some(Conflict::Nothing) => return Ok(()),
                Some(Conflict::Update(on, _)) if *on != column.name => {
                    return Err(SqlError::not_rehearsable("a conflict of another column"));
                }
                Some(Conflict::Update(_, set)) => {
                    let scope = Scope { row: Some((&found.columns, old)), excluded: Some((&found.columns, &row)), ..self.scope };
                    let new = assign(found, old, set, scope)?;
                    self.changes.push(Change::Put { table: self.table.to_owned(), pos: *there, row: Row::clone(&new) });
                    self.made.push(new);
                    self.count += 1;
                    return Ok(());
                }
            }
        }
        self.changes.push(Change::Put { table: self.table.to_owned(), pos, row: Row::clone(&row) });
        self.made.push(row);
        self.count += 1;
        Ok(())
    }
}

/// The columns of what is selected from.
fn columns_of<'a>(from: Option<&str>, tables: &'a Tables) -> Answer<Cow<'a, [Column]>> {
    Ok(match from {
        None => Cow::default(),
        Some("pg_stat_replication") => {
            let texts = ["application_name", "client_addr", "state", "sync_state"].map(|name| Column::new(name, Kind::Text));
            let positions = ["sent_lsn", "write_lsn", "flush_lsn", "replay_lsn"].map(|name| Column::new(name, Kind::Lsn));
            texts.into_iter().chain(positions).collect()
        }
        Some("pg_stat_xact_all_tables") => {
            let counts = ["n_tup_ins", "n_tup_upd", "n_tup_del"].map(|name| Column::new(name, Kind::Int));
            [Column::new("schemaname", Kind::Text)].into_iter().chain(counts).collect()
        }
        Some("pg_description") => {
            let numbers = ["objoid", "classoid"].map(|name| Column::new(name, Kind::Int));
            numbers.into_iter().chain([Column::new("description", Kind::Text)]).collect()
        }
        Some(name) => Cow::Borrowed(&tables.tables.get(name).ok_or_else(|| no_table(name))?.columns),
    })
}

/// The rows of what is no table. None: a table's are read where they are.
fn made_up(from: Option<&str>, scope: Scope<'_>) -> Option<Vec<Row>> {
    match from {
        None => Some(vec![Row::from([])]),
        Some("pg_stat_replication") => {
            let row = |f: &super::eval::Follower| -> Row {
                let sync = if f.sync { "sync" } else { "async" };
                let texts = [f.name.as_str(), &f.address, "streaming", sync].map(Cell::text);
                let positions = [f.sent, f.flushed, f.flushed, f.replayed].map(Cell::Lsn);
                texts.into_iter().chain(positions).collect()
            };
            Some(scope.facts.followers.iter().map(row).collect())
        }
        // Not told apart by what was done, as the server does: what is asked of it is the sum.
        Some("pg_stat_xact_all_tables") => {
            let (rows, catalogue) = scope.facts.touched;
            let row = |schema: &str, n: i64| -> Row { [Cell::text(schema), Cell::Int(n), Cell::Int(0), Cell::Int(0)].into() };
            Some(vec![row("public", rows), row("pg_catalog", catalogue)])
        }
        // Of large objects alone.
        Some("pg_description") => {
            let commented = scope.tables.objects.iter().filter_map(|(oid, (_, comment))| Some((oid, comment.as_ref()?)));
            Some(commented.map(|(oid, text)| -> Row { [Cell::Int(*oid), Cell::Int(LARGE_OBJECTS), Cell::text(text)].into() }).collect())
        }
        Some(_) => None,
    }
}

/// The columns that are given.
fn heads(items: &[Item], columns: &[Column]) -> Vec<(String, Kind)> {
    let mut heads = Vec::new();
    for item in items {
        match item {
            Item::All => heads.extend(columns.iter().map(|column| (column.name.clone(), column.kind))),
            Item::One(expr, alias) => {
                let name = alias.clone().unwrap_or_else(|| match expr {
                    Expr::Column(name) | Expr::Call(name, _) => name.clone(),
                    Expr::CountAll => "count".to_owned(),
                    _ => "?column?".to_owned(),
                });
                heads.push((name, kind(expr, columns)));
            }
        }
    }
    heads
}

fn project(items: &[Item], columns: &[Column], row: &[Cell], scope: Scope<'_>) -> Answer<Vec<Cell>> {
    let mut cells = Vec::new();
    for item in items {
        match item {
            Item::All => cells.extend_from_slice(row),
            Item::One(expr, _) => cells.push(eval(expr, Scope { row: Some((columns, row)), ..scope })?),
        }
    }
    Ok(cells)
}

/// The rows of a query.
pub(super) fn run_select(select: &Select, scope: Scope<'_>) -> Answer<Rows> {
    let columns = columns_of(select.from.as_deref(), scope.tables)?;
    let made_up = made_up(select.from.as_deref(), scope);
    let rows: Box<dyn Iterator<Item = &Row>> = match (&made_up, &select.from) {
        (None, Some(name)) => Box::new(table_for(scope.tables, scope.facts, name, Action::Select)?.rows().map(|(_, row)| row)),
        _ => Box::new(made_up.iter().flatten()),
    };
    let mut found = Vec::new();
    for row in rows {
        if holds(select.filter.as_ref(), &columns, row, scope)? {
            found.push(row);
        }
    }
    let summed = select.items.iter().any(|item| matches!(item, Item::One(expr, _) if aggregates(expr)));
    let mut rows = Vec::new();
    if summed {
        rows.push(project(&select.items, &columns, &[], Scope { group: Some((&columns, &found)), ..scope })?);
    } else {
        if !select.order.is_empty() {
            let mut keyed = Vec::with_capacity(found.len());
            for row in found {
                let key = select.order.iter().map(|(by, _)| eval(by, Scope { row: Some((&columns, row)), ..scope }));
                keyed.push((key.collect::<Answer<Vec<Cell>>>()?, row));
            }
            keyed.sort_by(|(one, _), (other, _)| {
                let each = one.iter().zip(other).zip(&select.order);
                each.map(|((a, b), (_, down))| if *down { b.cmp(a) } else { a.cmp(b) })
                    .find(|o| o.is_ne())
                    .unwrap_or(std::cmp::Ordering::Equal)
            });
            found = keyed.into_iter().map(|(_, row)| row).collect();
        }
        if let Some(limit) = &select.limit {
            match eval(limit, scope)? {
                Cell::Int(most) => found.truncate(usize::try_from(most).map_err(|_| SqlError::new("2201W", "LIMIT must not be negative"))?),
                _ => return Err(SqlError::not_rehearsable("a limit that is no number")),
            }
        }
        for row in &found {
            rows.push(project(&select.items, &columns, row, scope)?);
        }
    }
    if let Some(union) = &select.union {
        rows.extend(run_select(union, scope)?.rows);
    }
    Ok(Rows { columns: heads(&select.items, &columns), rows })
}

/// A row's text, as PostgreSQL writes a composite value.
fn composite(row: &[Cell]) -> String {
    let cells = row.iter().map(|cell| {
        let Some(text) = cell.written() else { return String::new() };
        let plain = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || "(),\"\\".contains(c));
        if plain { text } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\"")) }
    });
    format!("({})", cells.collect::<Vec<_>>().join(","))
}

/// How many rows there are, and the sums of the halves of their hashes.
fn digest(rows: &Rows) -> Rows {
    let mut sums = [0i128; 2];
    for row in &rows.rows {
        let hash = Sha256::digest(composite(row));
        for (sum, half) in sums.iter_mut().zip(hash.chunks_exact(8)) {
            *sum += i128::from(half.iter().fold(0i64, |number, byte| number << 8 | i64::from(*byte)));
        }
    }
    let columns = vec![("count".to_owned(), Kind::Int), ("?column?".to_owned(), Kind::Text), ("?column?".to_owned(), Kind::Text)];
    let row = vec![Cell::Int(rows.rows.len() as i64), Cell::text(sums[0].to_string()), Cell::text(sums[1].to_string())];
    Rows { columns, rows: vec![row] }
}
