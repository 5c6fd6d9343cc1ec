//! Where the commands for drills that exist look for them: which cluster, and which namespace in it.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Namespace;

use super::common::{self, CliError};
use crate::{
    cluster::{self, Cluster},
    drill::DrillState,
    hint,
    journal::{Record, StoredRecord, find_records},
    scenario::{self, types::OwnPlace},
};

/// Which cluster, and where in it firedrill keeps its records.
#[derive(Debug, clap::Args)]
pub(super) struct Where {
    /// The kubeconfig's context; default the environment's, else its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// firedrill's own namespace; default the environment's, else `firedrill`.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// The environment the drills run in: their namespace, context and cluster. Default: the file that FIREDRILL_ENVIRONMENT names.
    #[arg(long, short, value_name = "FILE")]
    environment: Option<PathBuf>,
}

/// A cluster, and the records of drills in firedrill's own namespace there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) cluster: Cluster,
    /// firedrill's own.
    pub(super) namespace: String,
    pub(super) records: Vec<StoredRecord>,
}

/// Connects, and reads the records.
///
/// # Errors
/// The environment or the cluster cannot be read, or the cluster is another one than the environment's.
pub(super) async fn connect(place: &Where) -> Result<Place, CliError> {
    let environment = match common::said_environment(place.environment.as_ref()) {
        Some(path) => Some(scenario::load_environment(&path).map_err(CliError::Problems)?),
        None => None,
    };
    let wanted = environment.as_ref().and_then(|environment| environment.spec.clusters.first());
    let context = place.context.as_deref().or(wanted.and_then(|(_, cluster)| cluster.context.as_deref()));
    let cluster = cluster::connect(context).await?;
    if let Some((name, wanted)) = wanted {
        cluster.expect_uid(name, &wanted.uid)?;
    }
    let own = environment.map(|environment| environment.spec.firedrill.namespace);
    let namespace = place.namespace.clone().or(own).unwrap_or_else(|| OwnPlace::default().namespace);
    let records = find_records(&cluster.client, &namespace).await.map_err(|e| CliError::Refused(e.to_string()))?;
    Ok(Place { cluster, namespace, records })
}

impl Place {
    /// The drill that is meant.
    ///
    /// # Errors
    /// There is none, or it is not clear which.
    pub(super) fn choose(&self, named: Option<&str>) -> Result<&StoredRecord, CliError> {
        let names: Vec<&str> = self.records.iter().map(|r| r.drill.as_str()).collect();
        let mut fitting = self.records.iter().filter(|r| named.is_none_or(|name| name == r.drill));
        let namespace = &self.namespace;
        let why = match (fitting.next(), fitting.next()) {
            (Some(one), None) => return Ok(one),
            (None, _) if names.is_empty() => format!(
                "there is no drill, running or left behind, in namespace {namespace} of this cluster; one of another environment is found \
                 with --environment FILE or --namespace NAME"
            ),
            (None, _) => {
                format!("there is no drill `{}` in namespace {namespace}; there is: {}", named.unwrap_or_default(), names.join(", "))
            }
            (Some(_), Some(_)) => format!("there are several drills, name one: {}", names.join(", ")),
        };
        Err(CliError::Refused(why))
    }

    /// Whether the namespace exists; `Err` says why that could not be seen.
    pub(super) async fn exists(&self) -> Result<bool, String> {
        self.cluster.get_cluster_opt::<Namespace>(&self.namespace).await.map(|found| found.is_some()).map_err(|e| e.to_string())
    }

    /// A command as people type it, for this namespace.
    pub(super) fn command(&self, what: &str) -> String {
        hint::command(what, &self.namespace)
    }
}

/// The events of a record, and the state they make.
///
/// # Errors
/// It is no record of this build.
pub(super) fn replay(stored: &StoredRecord) -> Result<(Vec<Record>, DrillState), CliError> {
    let unreadable = |e: &dyn std::fmt::Display| CliError::Refused(format!("the record of {} cannot be read: {e}", stored.drill));
    let (records, _) = stored.read().map_err(|e| CliError::Refused(e.to_string()))?;
    let state = DrillState::replay(&records).map_err(|e| unreadable(&e))?;
    Ok((records, state))
}
