//! PromQL, read: the subset of it that is rehearsable. Whatever else Prometheus takes is refused as "not rehearsable".

use super::{
    super::label::{Matcher, NAME},
    lex::{Token, tokens},
};

/// How deep expressions may be nested.
const DEEPEST: usize = 60;
/// How many operators one may have.
const MOST_OPERATORS: usize = 200;

/// An expression.
#[derive(Debug, Clone)]
pub(super) enum Expr {
    Number(f64),
    Text(String),
    /// The newest samples of some series.
    Select(Selector),
    /// Their samples over this long, in milliseconds.
    Range(Selector, i64),
    Negative(Box<Self>),
    Binary(Box<Binary>),
    Aggregate(Box<Aggregate>),
    Call(&'static str, Vec<Self>),
}

/// Which series, and how long ago.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    pub(super) matchers: Vec<Matcher>,
    /// In milliseconds.
    pub(super) offset: i64,
}

/// Two expressions joined by an operator.
#[derive(Debug, Clone)]
pub(super) struct Binary {
    pub(super) operator: &'static str,
    pub(super) left: Expr,
    pub(super) right: Expr,
    /// A comparison gives 0 or 1 in place of leaving out.
    pub(super) as_bool: bool,
    pub(super) matching: Matching,
}

/// How the series of both sides find each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Matching {
    /// By these labels alone, or by all but these.
    pub(super) on: bool,
    pub(super) labels: Vec<String>,
    /// The side on which many may have the same partner.
    pub(super) many: Option<Side>,
    /// Labels taken over from the side of the one.
    pub(super) include: Vec<String>,
}

/// A side of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Series made one by group.
#[derive(Debug, Clone)]
pub(super) struct Aggregate {
    pub(super) operator: &'static str,
    /// Grouped by all labels but these, rather than by these.
    pub(super) without: bool,
    pub(super) labels: Vec<String>,
    /// Of `topk`, `bottomk` and `quantile`.
    pub(super) parameter: Option<Expr>,
    pub(super) of: Expr,
}

/// What an expression gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar,
    Vector,
    Range,
    Text,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "a scalar",
            Self::Vector => "an instant vector",
            Self::Range => "a range vector",
            Self::Text => "a string",
        }
    }
}

const AGGREGATES: [&str; 9] = ["sum", "min", "max", "avg", "count", "group", "topk", "bottomk", "quantile"];

/// Functions, what they take and give; the last parameters after `min` may be left out.
const FUNCTIONS: [(&str, &[Kind], usize, Kind); 39] = {
    use Kind::{Range, Scalar, Text, Vector};
    [
        ("abs", &[Vector], 1, Vector),
        ("absent", &[Vector], 1, Vector),
        ("absent_over_time", &[Range], 1, Vector),
        ("avg_over_time", &[Range], 1, Vector),
        ("ceil", &[Vector], 1, Vector),
        ("changes", &[Range], 1, Vector),
        ("clamp", &[Vector, Scalar, Scalar], 3, Vector),
        ("clamp_max", &[Vector, Scalar], 2, Vector),
        ("clamp_min", &[Vector, Scalar], 2, Vector),
        ("count_over_time", &[Range], 1, Vector),
        ("delta", &[Range], 1, Vector),
        ("deriv", &[Range], 1, Vector),
        ("exp", &[Vector], 1, Vector),
        ("floor", &[Vector], 1, Vector),
        ("idelta", &[Range], 1, Vector),
        ("increase", &[Range], 1, Vector),
        ("irate", &[Range], 1, Vector),
        ("label_replace", &[Vector, Text, Text, Text, Text], 5, Vector),
        ("last_over_time", &[Range], 1, Vector),
        ("ln", &[Vector], 1, Vector),
        ("max_over_time", &[Range], 1, Vector),
        ("min_over_time", &[Range], 1, Vector),
        ("pi", &[], 0, Scalar),
        ("predict_linear", &[Range, Scalar], 2, Vector),
        ("present_over_time", &[Range], 1, Vector),
        ("rate", &[Range], 1, Vector),
        ("resets", &[Range], 1, Vector),
        ("round", &[Vector, Scalar], 1, Vector),
        ("scalar", &[Vector], 1, Scalar),
        ("sgn", &[Vector], 1, Vector),
        ("sort", &[Vector], 1, Vector),
        ("sort_desc", &[Vector], 1, Vector),
        ("sqrt", &[Vector], 1, Vector),
        ("stddev_over_time", &[Range], 1, Vector),
        ("stdvar_over_time", &[Range], 1, Vector),
        ("sum_over_time", &[Range], 1, Vector),
        ("time", &[], 0, Scalar),
        ("timestamp", &[Vector], 1, Vector),
        ("vector", &[Scalar], 1, Vector),
    ]
};

/// Operators with how strongly they bind; `^` alone binds from the right.
const OPERATORS: [(&str, u8); 15] = [
    ("or", 1),
    ("and", 2),
    ("unless", 2),
    ("==", 3),
    ("!=", 3),
    (">=", 3),
    ("<=", 3),
    (">", 3),
    ("<", 3),
    ("+", 4),
    ("-", 4),
    ("*", 5),
    ("/", 5),
    ("%", 5),
    ("^", 6),
];

/// How strongly a sign before an expression binds.
const SIGN_BINDS: u8 = 5;

/// Whether an operator compares.
pub(super) fn compares(operator: &str) -> bool {
    matches!(operator, "==" | "!=" | ">=" | "<=" | ">" | "<")
}

/// Whether an operator is of sets.
pub(super) fn of_sets(operator: &str) -> bool {
    matches!(operator, "and" | "or" | "unless")
}

/// Reads an expression.
///
/// # Errors
/// It is none, or outside of the subset; the message of the latter begins with "not rehearsable".
pub(super) fn parse(text: &str) -> Result<Expr, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0, operators: 0 };
    let expr = parser.expr(1)?;
    match parser.peek() {
        None => kind(&expr).map(|_| expr),
        Some(Token::Sign("@")) => Err("not rehearsable: the modifier `@`".to_owned()),
        Some(Token::Sign("[")) => Err("not rehearsable: a subquery".to_owned()),
        Some(Token::Word(word)) if word == "atan2" => Err("not rehearsable: the operator `atan2`".to_owned()),
        Some(other) => Err(format!("{} is not expected there", shown(other))),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Number(value) => format!("`{value}`"),
        Token::Duration(ms) => format!("a duration of {ms} ms"),
        Token::Text(text) => format!("{text:?}"),
        Token::Word(word) => format!("`{word}`"),
        Token::Sign(sign) => format!("`{sign}`"),
    }
}

/// What an expression gives.
///
/// # Errors
/// An operand of it is of the wrong kind.
pub(super) fn kind(expr: &Expr) -> Result<Kind, String> {
    match expr {
        Expr::Number(_) => Ok(Kind::Scalar),
        Expr::Text(_) => Ok(Kind::Text),
        Expr::Select(_) => Ok(Kind::Vector),
        Expr::Range(..) => Ok(Kind::Range),
        Expr::Negative(of) => one_of(of, &[Kind::Scalar, Kind::Vector], "-"),
        Expr::Aggregate(aggregate) => {
            one_of(&aggregate.of, &[Kind::Vector], aggregate.operator)?;
            if let Some(parameter) = &aggregate.parameter {
                one_of(parameter, &[Kind::Scalar], aggregate.operator)?;
            }
            Ok(Kind::Vector)
        }
        Expr::Call(name, args) => {
            let (_, takes, _, gives) = FUNCTIONS.iter().find(|f| f.0 == *name).ok_or("no such function")?;
            for (arg, wanted) in args.iter().zip(*takes) {
                one_of(arg, &[*wanted], name)?;
            }
            Ok(*gives)
        }
        Expr::Binary(binary) => {
            let operator = binary.operator;
            let sides = [
                one_of(&binary.left, &[Kind::Scalar, Kind::Vector], operator)?,
                one_of(&binary.right, &[Kind::Scalar, Kind::Vector], operator)?,
            ];
            let scalars = sides == [Kind::Scalar; 2];
            if of_sets(operator) && sides != [Kind::Vector; 2] {
                return Err(format!("`{operator}` is between instant vectors only"));
            }
            if compares(operator) && scalars && !binary.as_bool {
                return Err("comparisons between scalars must use the bool modifier".to_owned());
            }
            if binary.as_bool && !compares(operator) {
                return Err("the bool modifier is for comparisons only".to_owned());
            }
            Ok(if scalars { Kind::Scalar } else { Kind::Vector })
        }
    }
}

fn one_of(expr: &Expr, wanted: &[Kind], of: &str) -> Result<Kind, String> {
    let is = kind(expr)?;
    if wanted.contains(&is) { Ok(is) } else { Err(format!("`{of}` does not take {}", is.name())) }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    operators: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn sees(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(s)) if *s == sign)
    }

    fn takes(&mut self, sign: &str) -> bool {
        let sees = self.sees(sign);
        self.at += usize::from(sees);
        sees
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(format!("`{sign}` is missing before {}", self.peek().map_or_else(|| "the end".to_owned(), shown)))
    }

    /// Takes a word, whatever its case, if it is the next.
    fn takes_word(&mut self, word: &str) -> bool {
        let sees = matches!(self.peek(), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        self.at += usize::from(sees);
        sees
    }

    fn operator(&self) -> Option<(&'static str, u8)> {
        let text = match self.peek()? {
            Token::Sign(sign) => (*sign).to_owned(),
            Token::Word(word) => word.to_ascii_lowercase(),
            _ => return None,
        };
        OPERATORS.into_iter().find(|(operator, _)| *operator == text)
    }

    fn expr(&mut self, least: u8) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("not rehearsable: the expression is nested more than {DEEPEST} deep"));
        }
        let mut left = self.unary()?;
        while let Some((operator, binds)) = self.operator().filter(|(_, binds)| *binds >= least) {
            self.at += 1;
            // A row of operators is as deep as it is long.
            self.operators += 1;
            if self.operators > MOST_OPERATORS {
                return Err(format!("not rehearsable: more than {MOST_OPERATORS} operators"));
            }
            let as_bool = self.takes_word("bool");
            let matching = self.matching(operator)?;
            let right = self.expr(if operator == "^" { binds } else { binds + 1 })?;
            left = Expr::Binary(Box::new(Binary { operator, left, right, as_bool, matching }));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, String> {
        if self.takes("-") {
            return Ok(Expr::Negative(Box::new(self.expr(SIGN_BINDS + 1)?)));
        }
        if self.takes("+") {
            return self.expr(SIGN_BINDS + 1);
        }
        self.primary()
    }

    fn matching(&mut self, operator: &str) -> Result<Matching, String> {
        let mut matching = Matching::default();
        let on = self.takes_word("on");
        if !on && !self.takes_word("ignoring") {
            return Ok(matching);
        }
        (matching.on, matching.labels) = (on, self.names()?);
        for (word, side) in [("group_left", Side::Left), ("group_right", Side::Right)] {
            if self.takes_word(word) {
                if of_sets(operator) {
                    return Err(format!("`{word}` is not for `{operator}`"));
                }
                matching.many = Some(side);
                if self.sees("(") {
                    matching.include = self.names()?;
                }
            }
        }
        Ok(matching)
    }

    /// `(a, b)`
    fn names(&mut self) -> Result<Vec<String>, String> {
        self.expect("(")?;
        let mut names = Vec::new();
        while !self.takes(")") {
            let Some(Token::Word(word)) = self.peek() else { return Err("the name of a label is missing".to_owned()) };
            names.push(word.clone());
            self.at += 1;
            if !self.sees(")") {
                self.expect(",")?;
            }
        }
        Ok(names)
    }

    fn primary(&mut self) -> Result<Expr, String> {
        let Some(token) = self.peek().cloned() else { return Err("the expression ends too early".to_owned()) };
        match token {
            Token::Number(value) => {
                self.at += 1;
                Ok(Expr::Number(value))
            }
            Token::Text(text) => {
                self.at += 1;
                Ok(Expr::Text(text))
            }
            Token::Sign("(") => {
                self.at += 1;
                let inner = self.expr(1)?;
                self.expect(")")?;
                if self.sees("[") { Err("not rehearsable: a subquery".to_owned()) } else { Ok(inner) }
            }
            Token::Sign("{") => self.selector(None),
            Token::Word(word) => self.named(&word),
            other => Err(format!("{} is not expected there", shown(&other))),
        }
    }

    fn named(&mut self, word: &str) -> Result<Expr, String> {
        self.at += 1;
        let lower = word.to_ascii_lowercase();
        let groups = matches!(self.peek(), Some(Token::Word(w)) if w.eq_ignore_ascii_case("by") || w.eq_ignore_ascii_case("without"));
        if !self.sees("(") && !groups {
            return self.selector(Some(word));
        }
        if let Some(operator) = AGGREGATES.into_iter().find(|a| *a == lower) {
            return self.aggregate(operator);
        }
        let Some((name, takes, least, _)) = FUNCTIONS.iter().find(|f| f.0 == word) else {
            return Err(format!("not rehearsable: the function `{word}`"));
        };
        let args = self.arguments()?;
        if args.len() < *least || args.len() > takes.len() {
            return Err(format!("`{name}` takes {} arguments, not {}", takes.len(), args.len()));
        }
        Ok(Expr::Call(name, args))
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, String> {
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.takes(")") {
            args.push(self.expr(1)?);
            if !self.sees(")") {
                self.expect(",")?;
            }
        }
        if self.sees("[") { Err("not rehearsable: a subquery".to_owned()) } else { Ok(args) }
    }

    fn grouping(&mut self) -> Result<Option<(bool, Vec<String>)>, String> {
        if self.takes_word("by") {
            return Ok(Some((false, self.names()?)));
        }
        if self.takes_word("without") {
            return Ok(Some((true, self.names()?)));
        }
        Ok(None)
    }

    fn aggregate(&mut self, operator: &'static str) -> Result<Expr, String> {
        let before = self.grouping()?;
        let mut args = self.arguments()?;
        let after = if before.is_none() { self.grouping()? } else { None };
        let (without, labels) = before.or(after).unwrap_or_default();
        let wanted = if matches!(operator, "topk" | "bottomk" | "quantile") { 2 } else { 1 };
        if args.len() != wanted {
            return Err(format!("`{operator}` takes {wanted} arguments, not {}", args.len()));
        }
        let of = args.pop().ok_or("an argument is missing")?;
        Ok(Expr::Aggregate(Box::new(Aggregate { operator, without, labels, parameter: args.pop(), of })))
    }

    fn selector(&mut self, name: Option<&str>) -> Result<Expr, String> {
        let mut matchers = Vec::new();
        if let Some(name) = name {
            matchers.push(Matcher::new(NAME, "=", name)?);
        }
        if self.takes("{") {
            while !self.takes("}") {
                let Some(Token::Word(label)) = self.peek().cloned() else { return Err("the name of a label is missing".to_owned()) };
                self.at += 1;
                let Some(Token::Sign(operator)) = self.peek().cloned() else { return Err(format!("`{label}` is compared with nothing")) };
                self.at += 1;
                let Some(Token::Text(value)) = self.peek().cloned() else { return Err(format!("the value of `{label}` is missing")) };
                self.at += 1;
                matchers.push(Matcher::new(&label, operator, &value)?);
                if !self.sees("}") {
                    self.expect(",")?;
                }
            }
        }
        if matchers.iter().all(|matcher| matcher.matches(&super::super::label::Labels::new())) {
            return Err("a selector must contain at least one matcher that does not match an empty text".to_owned());
        }
        let mut range = None;
        if self.takes("[") {
            let Some(Token::Duration(ms)) = self.peek().cloned() else { return Err("the duration of a range is missing".to_owned()) };
            self.at += 1;
            if !self.sees("]") {
                return Err("not rehearsable: a subquery".to_owned());
            }
            self.at += 1;
            range = Some(ms);
        }
        let mut offset = 0;
        if self.takes_word("offset") {
            let back = if self.takes("-") { -1 } else { 1 };
            let Some(Token::Duration(ms)) = self.peek().cloned() else { return Err("the duration of an offset is missing".to_owned()) };
            self.at += 1;
            offset = back * ms;
        }
        let selector = Selector { matchers, offset };
        Ok(match range {
            Some(ms) => Expr::Range(selector, ms),
            None => Expr::Select(selector),
        })
    }
}
