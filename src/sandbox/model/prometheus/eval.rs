//! PromQL, worked out at an instant, by the rules of Prometheus 2.42.

use std::collections::BTreeMap;

use super::{
    super::label::{Labels, NAME, anchored},
    functions,
    parse::{Aggregate, Binary, Expr, Matching, Selector, Side, compares, of_sets},
    store::Store,
};

/// Series with one value each.
pub(super) type Vector = Vec<(Labels, f64)>;
/// Series with their samples (milliseconds, value).
pub(super) type Matrix = Vec<(Labels, Vec<(i64, f64)>)>;

/// What an expression came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Scalar(f64),
    Vector(Vector),
    Matrix(Matrix),
    Text(String),
}

/// Works an expression out.
///
/// # Errors
/// Series cannot be matched, or an operand is of a wrong kind.
pub(super) fn eval(store: &Store, expr: &Expr, at_ms: i64) -> Result<Value, String> {
    Eval { store, at_ms }.value(expr)
}

/// As [`eval`], for rules: a scalar is a vector of one series without labels.
///
/// # Errors
/// As [`eval`], or it gives neither.
pub(super) fn vector(store: &Store, expr: &Expr, at_ms: i64) -> Result<Vector, String> {
    match eval(store, expr, at_ms)? {
        Value::Vector(vector) => Ok(vector),
        Value::Scalar(value) => Ok(vec![(Labels::new(), value)]),
        Value::Matrix(_) | Value::Text(_) => Err("rule result is not a vector or scalar".to_owned()),
    }
}

struct Eval<'a> {
    store: &'a Store,
    at_ms: i64,
}

fn nameless(mut labels: Labels) -> Labels {
    labels.remove(NAME);
    labels
}

/// Applies a function to each value; the names go.
fn each(vector: Vector, with: impl Fn(f64) -> f64) -> Value {
    Value::Vector(vector.into_iter().map(|(labels, value)| (nameless(labels), with(value))).collect())
}

/// An arithmetic operator, or a comparison as 0 or 1.
fn apply(operator: &str, left: f64, right: f64) -> f64 {
    match operator {
        "+" => left + right,
        "-" => left - right,
        "*" => left * right,
        "/" => left / right,
        "%" => left % right,
        "^" => left.powf(right),
        _ => f64::from(u8::from(holds(operator, left, right))),
    }
}

#[expect(clippy::float_cmp, reason = "PromQL compares exactly")]
fn holds(operator: &str, left: f64, right: f64) -> bool {
    match operator {
        "==" => left == right,
        "!=" => left != right,
        ">" => left > right,
        "<" => left < right,
        ">=" => left >= right,
        _ => left <= right,
    }
}

impl Eval<'_> {
    fn value(&self, expr: &Expr) -> Result<Value, String> {
        Ok(match expr {
            Expr::Number(value) => Value::Scalar(*value),
            Expr::Text(text) => Value::Text(text.clone()),
            Expr::Select(selector) => Value::Vector(self.select(selector).into_iter().map(|(labels, value, _)| (labels, value)).collect()),
            Expr::Range(selector, length) => Value::Matrix(self.range(selector, *length)),
            Expr::Negative(of) => match self.value(of)? {
                Value::Scalar(value) => Value::Scalar(-value),
                other => each(of_vector(other)?, |value| -value),
            },
            Expr::Binary(binary) => return self.binary(binary),
            Expr::Aggregate(aggregate) => Value::Vector(self.aggregate(aggregate)?),
            Expr::Call(name, args) => return self.call(name, args),
        })
    }

    fn select(&self, selector: &Selector) -> Vec<(Labels, f64, i64)> {
        self.store.instant(&selector.matchers, self.at_ms - selector.offset)
    }

    fn range(&self, selector: &Selector, length: i64) -> Matrix {
        let to = self.at_ms - selector.offset;
        self.store.range(&selector.matchers, to - length, to)
    }

    fn scalar(&self, expr: &Expr) -> Result<f64, String> {
        match self.value(expr)? {
            Value::Scalar(value) => Ok(value),
            _ => Err("a scalar is wanted".to_owned()),
        }
    }

    fn vector(&self, expr: &Expr) -> Result<Vector, String> {
        of_vector(self.value(expr)?)
    }

    fn binary(&self, binary: &Binary) -> Result<Value, String> {
        let Binary { operator, left, right, as_bool, matching } = binary;
        let compare = compares(operator) && !as_bool;
        match (self.value(left)?, self.value(right)?) {
            (Value::Scalar(left), Value::Scalar(right)) => Ok(Value::Scalar(apply(operator, left, right))),
            (Value::Vector(left), Value::Scalar(right)) => Ok(with_scalar(left, compare, operator, |value| (value, right))),
            (Value::Scalar(left), Value::Vector(right)) => Ok(with_scalar(right, compare, operator, |value| (left, value))),
            (Value::Vector(left), Value::Vector(right)) if of_sets(operator) => Ok(Value::Vector(sets(operator, left, right, matching))),
            (Value::Vector(left), Value::Vector(right)) => Ok(Value::Vector(matched(binary, left, right)?)),
            _ => Err(format!("`{operator}` is between scalars and instant vectors")),
        }
    }

    fn aggregate(&self, aggregate: &Aggregate) -> Result<Vector, String> {
        let vector = self.vector(&aggregate.of)?;
        let parameter = aggregate.parameter.as_ref().map(|of| self.scalar(of)).transpose()?;
        let mut groups: BTreeMap<Labels, Vector> = BTreeMap::new();
        for (labels, value) in vector {
            groups.entry(group_of(&labels, aggregate)).or_default().push((labels, value));
        }
        let mut found = Vector::new();
        for (group, members) in groups {
            let values: Vec<f64> = members.iter().map(|(_, value)| *value).collect();
            let count = values.len() as f64;
            let one = match aggregate.operator {
                "sum" => values.iter().sum(),
                "min" => values.iter().copied().fold(f64::NAN, f64::min),
                "max" => values.iter().copied().fold(f64::NAN, f64::max),
                "avg" => values.iter().sum::<f64>() / count,
                "count" => count,
                "group" => 1.0,
                "quantile" => functions::quantile(parameter.unwrap_or(f64::NAN), values),
                ends => {
                    found.extend(best(members, parameter.unwrap_or(0.0), ends == "topk"));
                    continue;
                }
            };
            found.push((group, one));
        }
        Ok(found)
    }

    fn call(&self, name: &str, args: &[Expr]) -> Result<Value, String> {
        let arg = |n: usize| args.get(n).ok_or("an argument is missing");
        if let Some(Expr::Range(selector, length)) = args.first() {
            let extra = args.get(1).map(|arg| self.scalar(arg)).transpose()?;
            let to = self.at_ms - selector.offset;
            let ranges = self.range(selector, *length);
            if name == "absent_over_time" {
                return Ok(Value::Vector(if ranges.is_empty() { vec![(demanded(selector), 1.0)] } else { Vec::new() }));
            }
            let keeps_name = name == "last_over_time";
            let one = |(labels, samples): (Labels, Vec<(i64, f64)>)| {
                let value = functions::over(name, &samples, to - length, to, extra)?;
                Some((if keeps_name { labels } else { nameless(labels) }, value))
            };
            return Ok(Value::Vector(ranges.into_iter().filter_map(one).collect()));
        }
        Ok(match name {
            "time" => Value::Scalar(self.at_ms as f64 / 1000.0),
            "pi" => Value::Scalar(std::f64::consts::PI),
            "vector" => Value::Vector(vec![(Labels::new(), self.scalar(arg(0)?)?)]),
            "scalar" => match self.vector(arg(0)?)?.as_slice() {
                [(_, value)] => Value::Scalar(*value),
                _ => Value::Scalar(f64::NAN),
            },
            "timestamp" => match arg(0)? {
                Expr::Select(selector) => {
                    Value::Vector(self.select(selector).into_iter().map(|(labels, _, ms)| (nameless(labels), ms as f64 / 1000.0)).collect())
                }
                other => each(self.vector(other)?, |_| self.at_ms as f64 / 1000.0),
            },
            "absent" => {
                let there = !self.vector(arg(0)?)?.is_empty();
                let labels = if let Expr::Select(selector) = arg(0)? { demanded(selector) } else { Labels::new() };
                Value::Vector(if there { Vec::new() } else { vec![(labels, 1.0)] })
            }
            "sort" | "sort_desc" => {
                let mut vector = self.vector(arg(0)?)?;
                vector.sort_by(|a, b| if name == "sort" { a.1.total_cmp(&b.1) } else { b.1.total_cmp(&a.1) });
                Value::Vector(vector)
            }
            "label_replace" => Value::Vector(self.label_replace(args)?),
            _ => {
                let numbers: Vec<f64> = args.iter().skip(1).map(|arg| self.scalar(arg)).collect::<Result<_, _>>()?;
                if name == "clamp" && matches!(numbers.as_slice(), [least, most] if least > most) {
                    return Ok(Value::Vector(Vec::new()));
                }
                each(self.vector(arg(0)?)?, |value| functions::single(name, value, &numbers))
            }
        })
    }

    fn label_replace(&self, args: &[Expr]) -> Result<Vector, String> {
        let [of, Expr::Text(to), Expr::Text(with), Expr::Text(from), Expr::Text(pattern)] = args else {
            return Err("label_replace takes a vector and four strings".to_owned());
        };
        let pattern = anchored(pattern)?;
        let mut found = self.vector(of)?;
        for (labels, _) in &mut found {
            let source = labels.get(from).cloned().unwrap_or_default();
            let Some(captures) = pattern.captures(&source) else { continue };
            let mut value = String::new();
            captures.expand(with, &mut value);
            if value.is_empty() {
                labels.remove(to)
            } else {
                labels.insert(to.clone(), value)
            };
        }
        unique(found)
    }
}

fn of_vector(value: Value) -> Result<Vector, String> {
    match value {
        Value::Vector(vector) => Ok(vector),
        _ => Err("an instant vector is wanted".to_owned()),
    }
}

fn unique(vector: Vector) -> Result<Vector, String> {
    let mut seen = std::collections::BTreeSet::new();
    if vector.iter().all(|(labels, _)| seen.insert(labels)) {
        return Ok(vector);
    }
    Err("vector cannot contain metrics with the same labelset".to_owned())
}

/// The labels that a selector demands by `=`: what `absent` gives.
fn demanded(selector: &Selector) -> Labels {
    let named = selector.matchers.iter().filter(|m| m.name != NAME);
    let mut labels = Labels::new();
    for matcher in named.clone() {
        if let Some(value) = matcher.exactly()
            && named.clone().filter(|other| other.name == matcher.name).count() == 1
        {
            labels.insert(matcher.name.clone(), value.to_owned());
        }
    }
    labels
}

/// A vector and a scalar. A comparison leaves the vector's values (and names) as they are.
fn with_scalar(vector: Vector, compare: bool, operator: &str, sides: impl Fn(f64) -> (f64, f64)) -> Value {
    let one = |(labels, value): (Labels, f64)| {
        let (left, right) = sides(value);
        if compare {
            return holds(operator, left, right).then_some((labels, value));
        }
        Some((nameless(labels), apply(operator, left, right)))
    };
    Value::Vector(vector.into_iter().filter_map(one).collect())
}

/// By what series of two sides find each other.
fn signature(labels: &Labels, matching: &Matching) -> Labels {
    let named = |name: &String| matching.labels.contains(name);
    labels.iter().filter(|(name, _)| if matching.on { named(name) } else { !named(name) && *name != NAME }).map(owned).collect()
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

fn sets(operator: &str, left: Vector, right: Vector, matching: &Matching) -> Vector {
    let of = |side: &Vector| side.iter().map(|(labels, _)| signature(labels, matching)).collect::<std::collections::BTreeSet<_>>();
    match operator {
        "and" => {
            let there = of(&right);
            left.into_iter().filter(|(labels, _)| there.contains(&signature(labels, matching))).collect()
        }
        "unless" => {
            let there = of(&right);
            left.into_iter().filter(|(labels, _)| !there.contains(&signature(labels, matching))).collect()
        }
        _ => {
            let there = of(&left);
            let more = right.into_iter().filter(|(labels, _)| !there.contains(&signature(labels, matching)));
            left.into_iter().chain(more).collect()
        }
    }
}

/// Series of two vectors joined one to one, or many to one (`engine.VectorBinop`).
fn matched(binary: &Binary, left: Vector, right: Vector) -> Result<Vector, String> {
    let Binary { operator, as_bool, matching, .. } = binary;
    // The side of the ones is looked up from that of the many.
    let swapped = matching.many == Some(Side::Right);
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    let mut ones: BTreeMap<Labels, (Labels, f64)> = BTreeMap::new();
    for (labels, value) in one {
        if ones.insert(signature(&labels, matching), (labels, value)).is_some() {
            return Err("found duplicate series for the match group: many-to-many matching not allowed".to_owned());
        }
    }
    let drops_name = !compares(operator) || *as_bool;
    let mut used = std::collections::BTreeSet::new();
    let mut found = Vector::new();
    for (labels, value) in many {
        let key = signature(&labels, matching);
        let Some((partner, other)) = ones.get(&key) else { continue };
        let (a, b) = if swapped { (*other, value) } else { (value, *other) };
        let filtered = compares(operator) && !as_bool;
        if filtered && !holds(operator, a, b) {
            continue;
        }
        let result = if filtered { a } else { apply(operator, a, b) };
        let mut joined = if drops_name { nameless(labels) } else { labels };
        match matching.many {
            None => {
                if !used.insert(key) {
                    return Err("multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)".to_owned());
                }
                joined.retain(|name, _| matching.labels.contains(name) == matching.on);
            }
            Some(_) => {
                for name in &matching.include {
                    match partner.get(name) {
                        Some(taken) => joined.insert(name.clone(), taken.clone()),
                        None => joined.remove(name),
                    };
                }
            }
        }
        found.push((joined, result));
    }
    unique(found)
}

fn group_of(labels: &Labels, aggregate: &Aggregate) -> Labels {
    let named = |name: &String| aggregate.labels.contains(name);
    labels.iter().filter(|(name, _)| if aggregate.without { !named(name) && *name != NAME } else { named(name) }).map(owned).collect()
}

/// The `k` highest or lowest, with all their labels; what is not a number comes last.
fn best(mut members: Vector, k: f64, top: bool) -> Vector {
    members.sort_by(|a, b| match (a.1.is_nan(), b.1.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Greater,
        (false, true) => std::cmp::Ordering::Less,
        _ if top => b.1.total_cmp(&a.1),
        _ => a.1.total_cmp(&b.1),
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count; `as` saturates")]
    members.truncate(k.max(0.0) as usize);
    members
}
