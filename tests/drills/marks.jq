# The marks of two reports of the same drill, times aside: a line for each difference, nothing where there is none.
#   jq -rn --slurpfile one A/report.json --slurpfile two B/report.json --arg first "on the testbed" --arg second "in the sandbox" -f marks.jq
# Which of two marks came first is known only where their brackets lie apart; that one of a pair came first in both is asked only where
# they lie apart by three seconds in both: what a kubelet sees by its readiness probes, and Prometheus by its rules, is early or late by a
# period of theirs, in every drill anew.
def apart: 3000000;

# Named, with a number where the same mark comes again.
def named:
  reduce .[0].verdict.marks[] as $mark ({seen: {}, marks: []};
    "\($mark.kind) of \($mark.of)" as $name
    | .seen[$name] += 1
    | .marks += [{name: ($name + (if .seen[$name] > 1 then " for the \(.seen[$name]). time" else "" end)), at: $mark.at}])
  | .marks;
def names: map(.name);
def times: map({key: .name, value: .at}) | from_entries;
def before($x; $y): $x.upper != null and $y.lower != null and $x.upper + apart < $y.lower;

($one | named) as $a | ($two | named) as $b
| ($a | times) as $at | ($b | times) as $bt
| (($a | names) - ($b | names) | map("only \($first): \(.)")[]),
  (($b | names) - ($a | names) | map("only \($second): \(.)")[]),
  ($a | names[] | select($bt[.]) as $x | $a | names[] | select($bt[.]) as $y
    | select(before($at[$x]; $at[$y]) and before($bt[$y]; $bt[$x]))
    | "\($first) \($x) comes before \($y), and \($second) after it"),
  (if ($a | length) == 0 then "there are no marks \($first)" else empty end)
