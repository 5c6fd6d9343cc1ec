# The marks of two reports of the same drill, times aside: a line for each difference, nothing where there is none.
#   jq -rn --slurpfile one A/report.json --slurpfile two B/report.json --arg first "on the testbed" --arg second "in the sandbox" -f marks.jq
# Which of two marks came first is known only where their brackets lie apart; that one of a pair came first in both is asked only where
# they lie apart by half a second in both: which of two probes sees the same recovery first is a matter of their cadence.
def apart: 500000;

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
