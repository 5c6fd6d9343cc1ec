//! The stop of a whole cluster: one ConfigMap in firedrill's own namespace. While it is there, every runner aborts and
//! reverts, and no drill begins. `kubectl create configmap firedrill-stop` does as well as `firedrill stop`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams},
};

use super::{
    JournalError,
    record::{limited, status_code},
};
use crate::labels;

/// The ConfigMap's name.
pub const STOP: &str = "firedrill-stop";

/// Who stopped all drills of a cluster, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stop {
    /// Who; empty when it was made by hand and does not say.
    pub by: String,
    /// Why; may be empty.
    pub reason: String,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("all drills are stopped")?;
        if !self.by.is_empty() {
            write!(f, " by {}", self.by)?;
        }
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}

fn error(doing: &'static str, detail: impl std::fmt::Display) -> JournalError {
    JournalError::Record { doing, name: STOP.to_owned(), detail: detail.to_string() }
}

impl Stop {
    /// Whether drills are stopped now.
    ///
    /// # Errors
    /// The API server does not answer or refuses: whoever is about to break something then does not.
    pub async fn read(client: &Client, namespace: &str) -> Result<Option<Self>, JournalError> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let found = limited("read", STOP, api.get_opt(STOP)).await?.map_err(|e| error("read", e))?;
        Ok(found.map(|map| {
            let mut data = map.data.unwrap_or_default();
            Self { by: data.remove("by").unwrap_or_default(), reason: data.remove("reason").unwrap_or_default() }
        }))
    }

    /// Stops all drills, or changes who and why.
    ///
    /// # Errors
    /// The API server does not do it.
    pub async fn set(&self, client: &Client, namespace: &str) -> Result<(), JournalError> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(STOP.to_owned()),
                labels: Some(BTreeMap::from([
                    (labels::ROLE.to_owned(), "stop".to_owned()),
                    (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
                ])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([("by".to_owned(), self.by.clone()), ("reason".to_owned(), self.reason.clone())])),
            ..ConfigMap::default()
        };
        let params = PatchParams::apply(labels::MANAGER).force();
        limited("write", STOP, api.patch(STOP, &params, &Patch::Apply(&map))).await?.map(|_| ()).map_err(|e| error("write", e))
    }

    /// Lets drills run again; says whether they were stopped.
    ///
    /// # Errors
    /// The API server does not do it.
    pub async fn lift(client: &Client, namespace: &str) -> Result<bool, JournalError> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        match limited("delete", STOP, api.delete(STOP, &DeleteParams::default())).await? {
            Ok(_) => Ok(true),
            Err(e) if status_code(&e) == Some(404) => Ok(false),
            Err(e) => Err(error("delete", e)),
        }
    }
}
