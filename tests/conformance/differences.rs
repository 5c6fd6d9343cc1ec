//! Where the two sides are known to differ, and why.

use std::fmt;

use libtest_mimic::Failed;

/// Where a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// firedrill's cluster in the process.
    Sandbox,
    /// A real API server.
    ApiServer,
}

impl Side {
    /// What the side's tests begin with.
    pub(crate) const fn module(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::ApiServer => "apiserver",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}

/// Each: a case, the side on which its assertions do not hold, and why that cannot be otherwise. Also the table of known differences
/// in `docs/sandbox.md`.
pub(crate) const KNOWN_DIFFERENCES: &[(&str, Side, &str)] = &[
    ("apply_body", Side::Sandbox, "a name that is missing is taken from the path"),
    ("apply_containers", Side::Sandbox, "the elements of the one who applies come first"),
    ("budget_values", Side::Sandbox, "percentages are not checked"),
    ("config_map_keys", Side::Sandbox, "keys in data and binaryData are not compared"),
    ("continue_token_that_is_none", Side::Sandbox, "the message is another one"),
    ("cron_schedule", Side::Sandbox, "time zones are not checked"),
    ("custom_defaults_and_pruning", Side::Sandbox, "there are no warnings in headers"),
    ("custom_kind_appears", Side::Sandbox, "custom objects have no scale"),
    ("custom_scale", Side::Sandbox, "custom objects have no scale"),
    ("custom_validation", Side::Sandbox, "the message shows the value"),
    ("defaults_of_a_claim", Side::Sandbox, "a claim has no protecting finalizer"),
    ("defaults_of_a_cron_job", Side::Sandbox, "defaults differ in a few fields"),
    ("defaults_of_a_daemon_set", Side::Sandbox, "defaults differ in a few fields"),
    ("defaults_of_a_deployment", Side::Sandbox, "defaults differ in a few fields"),
    ("defaults_of_a_job", Side::Sandbox, "defaults differ in a few fields"),
    ("defaults_of_a_namespace", Side::Sandbox, "a namespace has no label with its name"),
    ("defaults_of_a_node", Side::Sandbox, "a new node is not tainted"),
    ("defaults_of_a_replica_set", Side::Sandbox, "defaults differ in a few fields"),
    ("defaults_of_a_stateful_set", Side::Sandbox, "defaults differ in a few fields"),
    ("defaults_of_an_endpoint_slice", Side::Sandbox, "an empty object is left out"),
    ("defaults_of_probes", Side::Sandbox, "ports of the host's network are not filled in"),
    ("delete_is_not_an_update", Side::Sandbox, "a deletionTimestamp in an update is left out in silence"),
    ("delete_job_orphans", Side::Sandbox, "there are no warnings in headers"),
    ("delete_options_not_readable", Side::Sandbox, "options that cannot be read are taken for none"),
    ("delete_with_finalizers", Side::Sandbox, "a create is not told that what is there is being deleted"),
    ("delete_with_the_wrong_uid", Side::Sandbox, "the message names the resource and not the kind"),
    ("delete_with_the_wrong_version", Side::Sandbox, "the message names the resource and not the kind"),
    ("deletecollection_with_selectors", Side::Sandbox, "dryRun in the query counts beside a body"),
    ("discovery_of_the_core", Side::Sandbox, "some subresources are missing in the discovery"),
    ("drill_change_is_refused", Side::Sandbox, "another uid in a merge patch is a conflict, as for an update"),
    ("ephemeral_containers_elsewhere", Side::Sandbox, "ephemeral containers of a new pod are not refused"),
    ("eviction_with_two_budgets", Side::Sandbox, "the message has another beginning"),
    ("eviction_without_a_budget", Side::Sandbox, "an evicted pod gets no DisruptionTarget condition"),
    ("exec_on_a_node_that_cannot_be_reached", Side::Sandbox, "the message is that of a node which does not answer"),
    ("exec_without_a_node", Side::Sandbox, "there is no port-forward"),
    ("field_manager_too_long", Side::Sandbox, "the length of a field manager is not checked"),
    ("job_spec_is_fixed", Side::Sandbox, "a Job's numbers are not checked"),
    ("json_patch_not_readable", Side::Sandbox, "an unknown operation is a bad request (400)"),
    ("json_patch_path_missing", Side::Sandbox, "a replace of what is missing is refused, as RFC 6902 has it"),
    ("kube_system_has_a_uid", Side::Sandbox, "the namespaces of the system can be deleted"),
    ("list_over_all_namespaces", Side::Sandbox, "namespaces are in the order of their names alone"),
    ("list_version_that_is_no_number", Side::Sandbox, "it is invalid (422)"),
    ("log_of_a_pod_without_a_node", Side::Sandbox, "the status is 200"),
    ("log_of_one_of_two", Side::Sandbox, "parameters of logs are not checked"),
    ("managed_fields_can_be_reset", Side::Sandbox, "managedFields cannot be emptied"),
    ("media_type_unknown", Side::Sandbox, "answers are always JSON"),
    ("merge_patch_of_a_wrong_type", Side::Sandbox, "a scale of a wrong type is a bad request (400)"),
    ("method_not_allowed", Side::Sandbox, "a create without a namespace is not found (404)"),
    ("node_is_cordoned", Side::Sandbox, "taints are not checked"),
    ("owner_and_finalizer_syntax", Side::Sandbox, "the field has the index of the reference"),
    ("owner_references_are_kept", Side::Sandbox, "the field has the index of the reference"),
    ("patch_and_put_with_unknown_fields", Side::Sandbox, "there are no warnings in headers"),
    ("patch_cannot_rename", Side::Sandbox, "another name in a patch is invalid (422)"),
    ("patch_type_unknown", Side::Sandbox, "the message is another one"),
    ("pod_deadline_shortens", Side::Sandbox, "activeDeadlineSeconds is not checked"),
    ("pod_quality_of_service", Side::Sandbox, "quantities are compared as they are written"),
    ("pod_security_refuses", Side::Sandbox, "there is no Pod Security"),
    ("pod_service_account_token", Side::Sandbox, "no token is mounted"),
    ("pod_spec_is_fixed", Side::Sandbox, "the difference does not follow the message"),
    ("ports", Side::Sandbox, "protocols are not checked"),
    ("probes_of_containers", Side::Sandbox, "probes are not checked"),
    ("put_without_a_version", Side::Sandbox, "the message names the kind and not the resource"),
    ("quantities", Side::Sandbox, "quantities are not checked, and kept as they are written"),
    ("rbac_apply_is_patch", Side::Sandbox, "an apply that makes something asks for patch alone"),
    ("rbac_no_escalation", Side::Sandbox, "the whole rule is named, not what is missing of it"),
    ("replica_set_status", Side::Sandbox, "the numbers of a status are not compared"),
    ("restart_policy_unknown", Side::Sandbox, "the values are told in another order"),
    ("scale_of_what_has_none", Side::Sandbox, "an unknown subresource is answered in text"),
    ("status_of_every_kind", Side::Sandbox, "an unknown subresource is answered in text"),
    ("strategic_order", Side::Sandbox, "new elements come last"),
    ("subresource_unknown", Side::Sandbox, "an unknown subresource is answered in text"),
    ("uid_in_a_merge_patch", Side::Sandbox, "it is a conflict, as for an update"),
    ("unknown_resource", Side::Sandbox, "an unknown resource is answered in text"),
    ("update_with_another_uid", Side::Sandbox, "the message names another resourceVersion"),
    ("verbs_of_customresourcedefinitions", Side::Sandbox, "a definition goes at once, and its delete is answered with a Status"),
    ("watch_bookmarks", Side::Sandbox, "there is no bookmark shortly before the end"),
    ("watch_finalizers", Side::Sandbox, "the removal of the last finalizer is told, too"),
    ("watch_of_a_path", Side::Sandbox, "there are no watches by path"),
    ("watch_too_old", Side::Sandbox, "a version is too old only once the past is compacted"),
    ("watch_version_that_is_none", Side::Sandbox, "it is invalid (422)"),
    ("watch_with_a_label", Side::Sandbox, "the object is shown as it is, not as it was when it last matched"),
];

/// The section of the docs that lists them.
const SECTION: &str = "### Cases that differ";

/// What is written down for people is what the suite goes by.
pub(crate) fn compare_with_docs() -> Result<(), Failed> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sandbox.md");
    let text = std::fs::read_to_string(file).map_err(|error| Failed::from(format!("docs/sandbox.md: {error}")))?;
    let (_, section) = text.split_once(SECTION).ok_or_else(|| Failed::from(format!("docs/sandbox.md has no section `{SECTION}`")))?;
    let told: Vec<&str> =
        section.lines().skip(1).take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `")).collect();
    let known: Vec<String> = KNOWN_DIFFERENCES.iter().map(|(case, side, why)| format!("| `{case}` | {side} | {why} |")).collect();
    if told == known {
        return Ok(());
    }
    Err(Failed::from(format!("docs/sandbox.md lists\n{}\nand KNOWN_DIFFERENCES has\n{}", told.join("\n"), known.join("\n"))))
}
