//! Which fault needs which target, and what it counts against.

use crate::scenario::types::{
    Placement,
    TargetKind::{self, CronJob, Nodes, Pods, Pvc, Secret, Service, Workload},
};

/// What a fault counts against, of [`crate::scenario::types::Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// `limits.pods`: pods it breaks or takes down.
    pub pods: bool,
    /// `limits.nodes`.
    pub nodes: bool,
    /// `limits.volumes`.
    pub volumes: bool,
    /// `limits.objects`.
    pub objects: bool,
}

/// What is true of all faults of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultRule {
    /// The kind, as in YAML.
    pub kind: &'static str,
    /// What its target may be; empty for kinds without a target.
    pub targets: &'static [TargetKind],
    /// What it counts against.
    pub counts: Counts,
}

const fn rule(kind: &'static str, targets: &'static [TargetKind], counts: [bool; 4]) -> FaultRule {
    let [pods, nodes, volumes, objects] = counts;
    FaultRule { kind, targets, counts: Counts { pods, nodes, volumes, objects } }
}

const RULES: &[FaultRule] = &[
    rule("podKill", &[Pods], [true, false, false, false]),
    rule("crash", &[Pods], [true, false, false, false]),
    rule("freeze", &[Pods], [true, false, false, false]),
    rule("signal", &[Pods], [true, false, false, false]),
    rule("scale", &[Workload], [true, false, false, true]),
    rule("cutBackupJob", &[CronJob], [false, false, false, true]),
    rule("drainNode", &[Nodes], [true, true, false, false]),
    rule("cordonNode", &[Nodes], [false, true, false, false]),
    rule("detachService", &[Service], [false, false, false, true]),
    rule("hideSecret", &[Secret], [false, false, false, true]),
    rule("loseVolume", &[Pvc], [false, false, true, false]),
    rule("badImage", &[Workload], [true, false, false, true]),
    rule("fillDisk", &[Pods, Pvc], [false, false, true, false]),
    rule("corruptFile", &[Pods, Pvc], [false, false, true, false]),
    rule("deleteFiles", &[Pods, Pvc], [false, false, true, false]),
    rule("partition", &[Pods], [true, false, false, false]),
    rule("loseNode", &[Nodes], [true, true, false, false]),
    rule("loseZone", &[Nodes], [true, true, false, false]),
    rule("fillNodeDisk", &[Nodes], [false, true, false, false]),
    rule("sql", &[], [false, false, false, false]),
    rule("custom", &[Pods], [true, false, false, false]),
    rule("manifest", &[], [false, false, false, true]),
];

/// Where the helpers of a kind of fault may be; empty for kinds without one.
pub fn placements(kind: &str) -> &'static [Placement] {
    match kind {
        "crash" | "freeze" | "signal" | "fillDisk" | "corruptFile" | "deleteFiles" => &[Placement::Node, Placement::Pod],
        "partition" | "loseNode" | "loseZone" | "fillNodeDisk" => &[Placement::Node],
        _ => &[],
    }
}

/// The rule of a kind of fault; none for a kind that does not exist.
pub fn fault_rule(kind: &str) -> Option<&'static FaultRule> {
    RULES.iter().find(|rule| rule.kind == kind)
}

#[cfg(test)]
mod tests {
    use crate::scenario::types::FaultSpec;

    #[test]
    fn every_kind_of_fault_has_its_rule() {
        let kinds: Vec<&str> = super::RULES.iter().map(|rule| rule.kind).collect();
        assert_eq!(kinds, FaultSpec::KINDS);
    }
}
