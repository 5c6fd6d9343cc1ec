//! The templates of labels and annotations: the two forms that rules use nearly always, `{{ $labels.NAME }}` and `{{ $value }}`.

use super::{super::label::Labels, store::written};

/// Fills a template in. What it cannot fill in becomes an error in the text, as in Prometheus.
pub(super) fn expand(text: &str, labels: &Labels, value: f64) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((inner, after)) = after.split_once("}}") else {
            return "<error expanding template: unclosed action>".to_owned();
        };
        let inner = inner.trim();
        match (inner, inner.strip_prefix("$labels.").or_else(|| inner.strip_prefix(".Labels."))) {
            ("$value" | ".Value", _) => out.push_str(&written(value)),
            (_, Some(name)) if super::super::label::is_label_name(name) => out.push_str(labels.get(name).map_or("", String::as_str)),
            _ => return format!("<error expanding template: not rehearsable: {{{{ {inner} }}}}>"),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_values_are_filled_in_and_nothing_else() {
        let labels = Labels::from([("pod".to_owned(), "orders-0".to_owned())]);
        let filled = |text| expand(text, &labels, 2.5);
        assert_eq!(filled("Pod {{ $labels.pod }} has {{$value}} of {{ $labels.none }}."), "Pod orders-0 has 2.5 of .");
        assert_eq!(filled("plain } text"), "plain } text");
        assert!(filled("{{ $value | humanize }}").contains("not rehearsable"));
        assert!(filled("{{ $value").contains("unclosed"));
    }
}
