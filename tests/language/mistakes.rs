//! One mistake each, and what warns.

/// One mistake each: the part it is in (`§` before its place) and what is said. Nothing else may be said.
pub(crate) const MISTAKES: &[(&str, &str, &str)] = &[
    // What the document is.
    (
        "head",
        "apiVersion: §firedrill.dev/v1\nkind: Scenario\nmetadata: {name: test}\nspec:",
        "`firedrill.dev/v1` is no version this build reads",
    ),
    ("head", "apiVersion: firedrill.dev/v1alpha1\nkind: §Scenari\nmetadata: {name: test}\nspec:", "`Scenari` is no kind of document"),
    ("head", "apiVersion: firedrill.dev/v1alpha1\nkind: Scenario\nmetadata: {name: §Test_1}\nspec:", "`Test_1` is not a name"),
    // Keys, types, scalars.
    ("limits", "  limits: {pods: 1, objects: 1, §dration: 20m}", "unknown key `dration` in `limits`: did you mean `duration`?"),
    ("limits", "  limits: {pods: 1, objects: 1, duration: §30}", "duration `30` has no unit: write `30s`, `30m` or `30h`"),
    ("limits", "  limits: {pods: §one, objects: 1}", "`pods` must be a whole number, not the text `one`"),
    ("limits", "  limits: {pods: §-1, objects: 1}", "`pods` cannot be -1: it must be from 0 to 4294967295"),
    ("limits", "  limits: {pods: §99999999999999999999999999999999999999999999, objects: 1}", "`pods` must be a whole number"),
    ("limits", "  limits: {pods: 1, §objects: }", "`objects` has no value; it must be a whole number"),
    ("limits", "  limits: {pods: 1, objects: 1, §pods: 2}", "key `pods` is set twice"),
    ("limits", "  limits: {pods: 1, objects: 1, budgets: §ignored}", "`budgets` must be one of `respect` and `ignore`"),
    ("steady", "  steadyState: {good: §checkout, for: 30s, timeout: 5m}", "`good` must be a list, not the text `checkout`"),
    ("steady", "  §steadyState: {good: [checkout], for: 30s}", "`steadyState` needs `timeout`"),
    ("summary", "  summary: §[a, b]", "`summary` must be a text, not a list"),
    ("summary", "  summary: §5", "`summary` must be a text, not the number `5`"),
    ("summary", "  summary: §\"  \"", "`summary` is empty"),
    ("summary", "  summary: !thing §A test.", "has no meaning here"),
    ("summary", "  summary: §*nothing", "alias `*nothing` stands for nothing"),
    ("objectives", "  §objectives: []", "`objectives` is empty; it needs at least one item"),
    ("objectives", "", "`spec` needs `objectives`"),
    ("end", "  §[a]: b", "a key must be a name, not a list or a map"),
    // Parameters.
    (
        "objectives",
        "  objectives:\n    - recoveryTime: {probe: checkout, after: lose, within: §\"${rt}\"}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "parameter `rt` does not exist",
    ),
    (
        "objectives",
        "  objectives:\n    - recoveryTime: {probe: checkout, after: lose, within: §\"${rto\"}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "`${` without `}`",
    ),
    ("parameters", "  parameters: {rto: §[1]}", "`rto` must be a text, a number or a boolean, not a list"),
    ("objectives", "  objectives:\n    - recoveryTime: {probe: checkout, after: lose, within: §\"${rto}0\"}", "`60s0` is not a duration"),
    // Targets.
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, pods: §\"a in b\"}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
        "`a in b` is not a label selector",
    ),
    (
        "targets",
        "  targets:\n    §primary: {namespace: shop}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
        "`primary` needs exactly one of `pods`, `name`",
    ),
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, pods: a=b, §owner: StatefulSet/x}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
        "`primary` is set to `pods` and `owner`: exactly one is possible",
    ),
    (
        "targets",
        "  targets:\n    §primary: {pods: a=b}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
        "target `primary` needs a `namespace`",
    ),
    (
        "targets",
        "  targets:\n    primary: {namespace: §kube-system, pods: a=b}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
        "no drill may touch the system namespace `kube-system`",
    ),
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, pods: a=b, expect: §0}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
        "`expect: 0` would be a drill without a target",
    ),
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, owner: §StatefulSets/x}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
        "`StatefulSets` is no kind of controller",
    ),
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, pods: a=b, mode: §some}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
        "`some` is not a mode",
    ),
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, pods: a=b}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}\n    more: {namespace: shop, pods: a=b, mode: §3, expect: 2}",
        "`mode: 3` chooses more than the 2 that are expected",
    ),
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, pods: a=b}\n    job: {namespace: shop, cronJob: §Backup}\n    web: {namespace: shop, deployment: web}",
        "`Backup` is not an object's name",
    ),
    // Probes.
    (
        "probes",
        "  probes:\n    checkout: {http: {url: §\"checkout.shop/healthz\"}}\n    paged: {alert: {name: Down}}",
        "it must start with `http://` or `https://`",
    ),
    (
        "probes",
        "  probes:\n    checkout: {http: {url: \"http://a/\", §every: 1s}}\n    paged: {alert: {name: Down}}",
        "unknown key `every` in `http`",
    ),
    ("probes", "  probes:\n    §checkout: {every: 1s}\n    paged: {alert: {name: Down}}", "`checkout` needs exactly one of `http`"),
    (
        "probes",
        "  probes:\n    checkout: {http: {url: \"http://a/\"}, every: §0s}\n    paged: {alert: {name: Down}}",
        "`every: 0s` is faster than 1ms",
    ),
    (
        "probes",
        "  probes:\n    checkout: {tcp: {address: §mail}}\n    paged: {alert: {name: Down}}",
        "`mail` is not `host:port`: the port is missing",
    ),
    (
        "probes",
        "  probes:\n    checkout: {object: {apiVersion: v1, kind: Pod, name: a, cel: §\"object.x ==\"}}\n    paged: {alert: {name: Down}}",
        "is not a CEL expression",
    ),
    (
        "probes",
        "  probes:\n    checkout: {object: {apiVersion: v1, kind: Pod, name: a, cel: §\"1 == 1\"}}\n    paged: {alert: {name: Down}}",
        "says nothing about `object`",
    ),
    (
        "probes",
        "  probes:\n    checkout: {§metric: {query: up}}\n    paged: {alert: {name: Down}}",
        "a `metric` probe without `min` and `max` is always good",
    ),
    (
        "probes",
        "  probes:\n    checkout: {pods: {target: §primry, ready: 1}}\n    paged: {alert: {name: Down}}",
        "target `primry` does not exist: did you mean `primary`?",
    ),
    (
        "probes",
        "  probes:\n    checkout: {pods: {target: §job, ready: 1}}\n    paged: {alert: {name: Down}}",
        "a `pods` probe needs pods, and target `job` is a CronJob",
    ),
    (
        "probes",
        "  probes:\n    checkout: {http: {url: \"http://a/\", method: POST, headers: {content-type: application/json}, body: §\"{a: 1}\"}}\n    paged: {alert: {name: Down}}",
        "the body is not JSON",
    ),
    (
        "probes",
        "  probes:\n    checkout: {http: {url: \"http://a/\", status: [§2x]}}\n    paged: {alert: {name: Down}}",
        "`2x` is not a status",
    ),
    (
        "probes",
        "  probes:\n    checkout: {sql: {postgres: {service: §db, database: a, secret: shop/x}, query: select 1}}\n    paged: {alert: {name: Down}}",
        "`db` is not `namespace/name`",
    ),
    (
        "probes",
        "  probes:\n    checkout: {sql: {postgres: {§runbook: book, database: a, secret: shop/x}, query: select 1}}\n    paged: {alert: {name: Down}}",
        "`runbook` goes with the `restored` side",
    ),
    // Steady state.
    (
        "steady",
        "  steadyState: {good: [checkout], quiet: [§checkout], for: 30s, timeout: 5m}",
        "probe `checkout` is of kind `http`; `alert` is needed here",
    ),
    ("steady", "  steadyState: {good: [§chekout], for: 30s, timeout: 5m}", "probe `chekout` does not exist: did you mean `checkout`?"),
    ("steady", "  steadyState: {good: [§paged], for: 30s, timeout: 5m}", "`paged` is an alert probe"),
    ("steady", "  steadyState: {good: [checkout], for: 5m, timeout: §5m}", "`timeout` 5m is not longer than `for` 5m"),
    ("steady", "  §steadyState: {for: 30s, timeout: 5m}", "`steadyState` names nothing that must hold"),
    // Steps.
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {inject: {partition: {target: primary, ports: [§0]}}}",
        "there is no port 0",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: §job}}}\n    - {name: book, runbook: {cronJob: shop/restore}}",
        "`freeze` needs pods, and target `job` is a CronJob",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {inject: {scale: {target: §primary, replicas: 1}}}",
        "`scale` needs a Deployment or StatefulSet, and target `primary` is pods",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {name: §lose, hold: 1s}",
        "two steps have the name `lose`",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {hold: 1s, §note: x}",
        "item 2 of `steps` is set to `hold` and `note`: exactly one is possible",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - §hold",
        "item 2 of `steps` must be a map of keys, not the text `hold`",
    ),
    ("steps", "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {hold: §0s}", "`hold` is 0s"),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {revert: §loose}",
        "step `loose` does not exist: did you mean `lose`?",
    ),
    (
        "steps",
        "  steps:\n    - {revert: §lose}\n    - {name: lose, inject: {freeze: {target: primary}}}",
        "step `lose` does not come before its revert",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {name: a, hold: 1s}\n    - {revert: §a}",
        "step `a` is a `hold`; a step that injects a fault is needed here",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}, undo: §runbook}}",
        "`undo: runbook`, but no later runbook step restores `primary`",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {inject: {§sql: {postgres: {service: shop/db, database: a, secret: shop/x}, statement: delete from t, maxRows: 5}}}",
        "an `sql` fault without `revert` has no undo of its own",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {runbook: {file: §../x.md, runIn: {target: primary}}}",
        "`../x.md` is not a file beside the scenario",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {waitFor: {probe: checkout, state: §gud, timeout: 1m}}",
        "`state` must be one of `good`, `bad` and `unknown`",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {inject: {cutBackupJob: {target: job, §after: 1s}}}",
        "`after` goes with `how: killRunning`",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {inject: {signal: {target: primary, signal: §SIGTREM, process: x}}}",
        "`SIGTREM` is no signal",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {inject: {partition: {target: primary}, placement: §pod}}",
        "`partition` needs its node, and cannot be made from within a pod",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {inject: {podKill: {target: primary}, §placement: node}}",
        "`podKill` has no helper, and so no `placement`",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {parallel: [{hold: 1s}, {waitFor: {probe: §x, state: good, timeout: 1m}}]}",
        "probe `x` does not exist",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {inject: {§fillDisk: {target: primary, path: /data, to: 100%}}}",
        "`fillDisk` breaks at least 1 of `volumes`, and `limits.volumes` is 0",
    ),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {name: book, inject: {cordonNode: {target: §primary}}}",
        "`cordonNode` needs nodes, and target `primary` is pods",
    ),
    // Objectives nothing can decide.
    (
        "objectives",
        "  objectives:\n    - §recoveryTime: {probe: checkout, within: \"${rto}\"}",
        "nothing says when this recovery time starts",
    ),
    (
        "objectives",
        "  objectives:\n    - recoveryTime: {probe: checkout, after: §book, within: \"${rto}\"}",
        "step `book` is a `runbook`; a step that injects a fault is needed here",
    ),
    (
        "objectives",
        "  objectives:\n    - recoveryTime: {probe: checkout, after: lose, within: \"${rto}\", stableFor: §20m}",
        "`stableFor` 20m is not shorter than the drill may take, 20m",
    ),
    ("objectives", "  objectives:\n    - recoveryTime: {probe: checkout, after: lose, within: §\"30m${rto}\"}", "the target 31m is longer"),
    (
        "objectives",
        "  objectives:\n    - recoveryTime: {probe: checkout, after: lose, within: \"${rto}\", from: §declared}",
        "`from: declared`, but no step declares the outage",
    ),
    (
        "objectives",
        "  objectives:\n    - recoveryTime: {probe: checkout, after: lose, within: \"${rto}\", from: §detected}",
        "`from: detected` needs the `alert` that detects it",
    ),
    (
        "objectives",
        "  objectives:\n    - detectionTime: {alert: §checkout, after: lose, within: \"${rto}\"}",
        "probe `checkout` is of kind `http`; `alert` is needed here",
    ),
    (
        "objectives",
        "  objectives:\n    - detectionTime: {alert: paged, after: lose, within: §1h}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "the target 1h is longer than the drill may take, 20m",
    ),
    (
        "objectives",
        "  objectives:\n    - dataLoss: {ledger: §checkout, writes: 0}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "probe `checkout` is of kind `http`; `ledger` is needed here",
    ),
    (
        "objectives",
        "  objectives:\n    - §dataLoss: {ledger: orders}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "`dataLoss` has no target",
    ),
    (
        "objectives",
        "  objectives:\n    - availability: {probe: checkout, for: §0s, atLeast: 99%}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "the window is 0s",
    ),
    (
        "objectives",
        "  objectives:\n    - availability: {probe: checkout, atLeast: §0%}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "`atLeast: 0%` could never be missed",
    ),
    (
        "objectives",
        "  objectives:\n    - availability: {probe: checkout, atLeast: §99}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "`99` is not a percentage",
    ),
    ("objectives", "  objectives:\n    - runbook: {step: §lose, within: \"${rto}\"}", "step `lose` is a `inject`, not a runbook"),
    (
        "objectives",
        "  objectives:\n    - backup: {probe: §checkout}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "probe `checkout` is of kind `http`; `backup` is needed here",
    ),
    (
        "objectives",
        "  objectives:\n    - order: {probes: [checkout, §checkout], after: lose}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "probe `checkout` is named twice",
    ),
    (
        "objectives",
        "  objectives:\n    - stepTime: {step: lose, after: §book, within: \"${rto}\"}",
        "step `book` does not come before `lose`",
    ),
    (
        "objectives",
        "  objectives:\n    - {name: a, check: {probe: checkout, state: good}}\n    - {name: §a, stepTime: {step: book, within: \"${rto}\"}}",
        "two objectives have the name `a`",
    ),
    (
        "objectives",
        "  objectives:\n    - restore: {source: {postgres: {service: shop/db, database: a, secret: shop/x}}, restored: {postgres: {service: shop/db2, database: a, secret: shop/x}}, query: select 1, minRows: §0}\n    - stepTime: {step: book, within: \"${rto}\"}",
        "`minRows: 0` would accept a restore of nothing",
    ),
];

/// Warnings leave the scenario usable.
pub(crate) const WARNINGS: &[(&str, &str, &str)] = &[
    ("parameters", "  parameters: {rto: 60s, §unused: 1}", "parameter `unused` is not used"),
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, pods: a=b}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}\n    §other: {namespace: shop, pods: a=b}",
        "target `other` is not used",
    ),
    (
        "objectives",
        "  objectives:\n    - recoveryTime: {probe: slow, after: lose, within: §\"${rto}\"}",
        "probe `slow` is too slow for this target: with `every` 30s and `timeout` 1m a recovery is known to 2m at worst, and the target is 1m",
    ),
    (
        "probes",
        "  probes:\n    checkout: {http: {url: \"http://a/\", headers: {§Authorization: x}}}\n    paged: {alert: {name: Down}}",
        "header `Authorization` holds a secret as a rule",
    ),
    (
        "probes",
        "  probes:\n    checkout: {http: {url: §\"http://me:secret@a/\"}}\n    paged: {alert: {name: Down}}",
        "a password in an address",
    ),
    ("steady", "  #", "there is no `steadyState`"),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {name: up, inject: {scale: {target: web, replicas: 3}}}\n    - {name: cut, inject: {cutBackupJob: {target: job}}}\n    - {waitFor: {probe: checkout, state: good, timeout: §2h}}",
        "`timeout` 2h is longer than the drill may take, 20m",
    ),
];
