//! `hideSecret`: takes a Secret away. Its copy stays in the cluster, in firedrill's own namespace; the revert makes the Secret
//! again from it.
//!
//! The Secret is deleted, not emptied: that is how Secrets get lost. What runs keeps what it has read; what starts anew does not
//! start. An emptied one would reach the files of running pods within a minute, which is another fault.
//!
//! **Never here:** contents in an undo, a message, a log or the journal. They go from one Secret to the other, through this process's
//! memory, and nowhere else. Not even a digest leaves: that of a short password is as good as the password.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    ByteString,
    api::core::v1::{Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde::{Deserialize, Serialize};

use super::{
    FaultCx, FaultError, Prepared, Undo,
    change::{Decision, as_is, change, only, until},
};
use crate::{
    clock::Stamp,
    cluster::ClusterError,
    journal::{RevertResult, TouchedObject},
    labels,
    plan::ResolvedObject,
};

/// The key of the copy that has all of the original but its contents.
const META: &str = "firedrill.dev_original.json";
/// The type of a copy: one of which no controller takes notice.
const TYPE: &str = "firedrill.dev/hidden";
/// What a copy is, in [`labels::ROLE`].
const ROLE: &str = "hidden-secret";
/// Types that the cluster's own controllers make, remove or act on by themselves.
const NOT_THESE: [&str; 3] = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token", "helm.sh/release.v1"];
/// How often a Secret is copied again that changes under the copying.
const CHANGES: usize = 8;

/// All of a Secret but its contents, as it is put back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Original {
    namespace: String,
    name: String,
    uid: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    owners: Vec<OwnerReference>,
    #[serde(rename = "type")]
    type_: Option<String>,
    immutable: Option<bool>,
}

impl Original {
    fn of(secret: &Secret) -> Self {
        Self {
            namespace: secret.namespace().unwrap_or_default(),
            name: secret.name_any(),
            uid: secret.uid().unwrap_or_default(),
            labels: secret.labels().clone(),
            annotations: secret.annotations().clone(),
            owners: secret.owner_references().to_vec(),
            type_: secret.type_.clone(),
            immutable: secret.immutable,
        }
    }
}

/// A Secret and its copy, by name.
struct Hidden<'a> {
    id: (&'a str, &'a str, &'a str),
    copy: &'a str,
}

fn parts(undo: &Undo) -> Result<Hidden<'_>, FaultError> {
    match undo {
        Undo::Secret { namespace, name, uid, copy } => Ok(Hidden { id: (namespace, name, uid), copy }),
        _ => Err(FaultError::NotBuilt),
    }
}

/// A copy that was found, taken apart.
struct Copy {
    uid: String,
    original: Original,
    data: BTreeMap<String, ByteString>,
}

impl Copy {
    /// Whether a Secret is what the copy would be put back as.
    fn is(&self, secret: &Secret) -> bool {
        let now = Original { uid: self.original.uid.clone(), ..Original::of(secret) };
        now == self.original && secret.data.as_ref().unwrap_or(&BTreeMap::new()) == &self.data
    }

    fn back(self) -> Secret {
        let some = |map: BTreeMap<String, String>| (!map.is_empty()).then_some(map);
        let Original { namespace, name, labels, annotations, owners, type_, immutable, uid: _ } = self.original;
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            labels: some(labels),
            annotations: some(annotations),
            owner_references: (!owners.is_empty()).then_some(owners),
            ..ObjectMeta::default()
        };
        Secret { metadata, data: Some(self.data), type_, immutable, ..Secret::default() }
    }
}

fn own(cx: &FaultCx) -> &str {
    &cx.plan.place.firedrill.namespace
}

async fn secret(cx: &FaultCx, namespace: &str, name: &str) -> Result<Option<Secret>, FaultError> {
    Ok(cx.cluster.get_opt::<Secret>(namespace, name).await?)
}

pub(super) async fn prepare(cx: &FaultCx, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let target = only(targets, "hide a Secret", "Secret")?;
    let (namespace, name, uid) = (target.namespace.clone(), target.name.clone(), target.uid.clone());
    let called = format!("hide Secret {namespace}/{name}");
    let refused = |why: String| Err(FaultError::failed(&called, why));
    let found = as_is::<Secret>(cx, target, &called).await?;
    if let Some(type_) = found.type_.as_deref().filter(|type_| NOT_THESE.contains(type_)) {
        return refused(format!("it is of type {type_}, of which the cluster takes care by itself: it could not be put back as it was"));
    }
    if !found.finalizers().is_empty() {
        return refused(format!("it has finalizers ({}): it would not go until somebody takes them away", found.finalizers().join(", ")));
    }
    if found.metadata.deletion_timestamp.is_some() {
        return refused("it is being deleted".to_owned());
    }
    if found.data.as_ref().is_some_and(|data| data.contains_key(META)) {
        return refused(format!("it has the key {META}, which firedrill needs for the copy"));
    }
    let copy = labels::hidden_copy(&namespace, &name);
    if secret(cx, own(cx), &copy).await?.is_some() {
        return refused(format!(
            "Secret {}/{copy} is there already, set aside by an earlier drill: revert that (`firedrill list`), or delete it if the \
             contents are not needed any more",
            own(cx)
        ));
    }
    let object = TouchedObject { kind: "Secret".to_owned(), namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
    Ok(Prepared { undo: Undo::Secret { namespace, name, uid, copy }, objects: vec![object] })
}

/// The copy of this drill, of this very Secret; an error if its place is taken by anything else.
async fn copy(cx: &FaultCx, hidden: &Hidden<'_>) -> Result<Option<Copy>, FaultError> {
    let Some(found) = secret(cx, own(cx), hidden.copy).await? else { return Ok(None) };
    let taken = || {
        let what = format!("use Secret {}/{}", own(cx), hidden.copy);
        FaultError::failed(what, "it was not set aside by this drill: look what it is; a drill of its name may be left (`firedrill list`)")
    };
    let uid = found.uid().unwrap_or_default();
    if found.labels().get(labels::DRILL) != Some(&cx.drill) {
        return Err(taken());
    }
    let mut data = found.data.unwrap_or_default();
    let original: Option<Original> = data.remove(META).and_then(|meta| serde_json::from_slice(&meta.0).ok());
    let original = original.filter(|o| (o.namespace.as_str(), o.name.as_str(), o.uid.as_str()) == hidden.id).ok_or_else(taken)?;
    Ok(Some(Copy { uid, original, data }))
}

pub(super) async fn inject(cx: &FaultCx, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let hidden = parts(undo)?;
    let (namespace, name, uid) = hidden.id;
    let called = format!("hide Secret {namespace}/{name}");
    let start = cx.clock.now();
    for _ in 0..CHANGES {
        let aside = copy(cx, &hidden).await?;
        let Some(now) = secret(cx, namespace, name).await?.filter(|s| s.uid().as_deref() == Some(uid)) else {
            // Ours, if it was us; otherwise somebody was first, and what is not there cannot be hidden.
            return if aside.is_some() || cx.deleted.has(uid) {
                Ok((start, cx.clock.now()))
            } else {
                Err(FaultError::failed(called, "it is no longer there"))
            };
        };
        match aside {
            None => set_aside(cx, &hidden, &now).await?,
            Some(aside) if aside.is(&now) => {}
            // It has changed since it was copied.
            Some(aside) => {
                remove(cx, own(cx), hidden.copy, &aside.uid, None).await?;
                continue;
            }
        }
        // Of the very version that was copied.
        match remove(cx, namespace, name, uid, now.resource_version()).await {
            Ok(()) => {
                cx.deleted.add(uid);
                return Ok((start, cx.clock.now()));
            }
            Err(FaultError::Cluster(error)) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Err(FaultError::failed(called, "others write to it all the time"))
}

/// Makes the copy, immutable, and readable by whoever may read Secrets in firedrill's own namespace.
async fn set_aside(cx: &FaultCx, hidden: &Hidden<'_>, now: &Secret) -> Result<(), FaultError> {
    let what = format!("set Secret {}/{} aside as {}/{}", hidden.id.0, hidden.id.1, own(cx), hidden.copy);
    let mut data = now.data.clone().unwrap_or_default();
    let meta = serde_json::to_vec(&Original::of(now)).map_err(|_| FaultError::failed(&what, "it cannot be written down"))?;
    data.insert(META.to_owned(), ByteString(meta));
    let marks = [(labels::DRILL, cx.drill.as_str()), (labels::ROLE, ROLE), (labels::MANAGED_BY, labels::MANAGER)];
    let metadata = ObjectMeta {
        name: Some(hidden.copy.to_owned()),
        namespace: Some(own(cx).to_owned()),
        labels: Some(marks.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
        ..ObjectMeta::default()
    };
    let copy = Secret { metadata, data: Some(data), type_: Some(TYPE.to_owned()), immutable: Some(true), ..Secret::default() };
    cx.leave.to(&what)?;
    create(cx, &what, own(cx), &copy).await
}

/// Makes a Secret. What the API server says against it is told by its status alone: its words may quote what they are about.
async fn create(cx: &FaultCx, what: &str, namespace: &str, secret: &Secret) -> Result<(), FaultError> {
    let api = cx.cluster.api::<Secret>(namespace);
    let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
    match cx.cluster.call(what, api.create(&params, secret)).await {
        Ok(_) => Ok(()),
        Err(ClusterError::Call { what, code: code @ (Some(413) | Some(422)), reason, why: _ }) => {
            let why = "the API server does not take it: it may be too large with what firedrill adds, or its type asks for other keys";
            Err(ClusterError::Call { what, code, reason, why: why.to_owned() }.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn remove(cx: &FaultCx, namespace: &str, name: &str, uid: &str, version: Option<String>) -> Result<(), FaultError> {
    let what = format!("delete Secret {namespace}/{name}");
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: version }),
        ..DeleteParams::default()
    };
    cx.leave.to(&what)?;
    match cx.cluster.call(&what, cx.cluster.api::<Secret>(namespace).delete(name, &params)).await {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

pub(super) async fn effective(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let hidden = parts(undo)?;
    until(cx, "that the Secret is gone", limit, || async {
        if let Some(how) = holds(cx, undo).await? {
            return Ok(Err(how));
        }
        // Without the copy it would not be hidden but lost.
        Ok(match copy(cx, &hidden).await? {
            Some(_) => Ok(format!("it is gone; its copy is Secret {}/{}", own(cx), hidden.copy)),
            None => Err(format!("its copy {}/{} is gone, too", own(cx), hidden.copy)),
        })
    })
    .await
}

pub(super) async fn holds(cx: &FaultCx, undo: &Undo) -> Result<Option<String>, FaultError> {
    let (namespace, name, uid) = parts(undo)?.id;
    Ok(secret(cx, namespace, name)
        .await?
        .map(|now| if now.uid().as_deref() == Some(uid) { "it is still there".to_owned() } else { "others have made it anew".to_owned() }))
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let hidden = parts(undo)?;
    let (namespace, name, uid) = hidden.id;
    // Where it was not deleted, a deletion may still be under way: it is of the version that was copied, and is refused after this.
    let fenced = change::<Secret, ()>(cx, hidden.id, |_| Ok(Decision::Fence(()))).await?;
    let aside = copy(cx, &hidden).await?;
    if fenced.is_some() {
        return match aside {
            None => Ok((RevertResult::Nothing, "it is there as before".to_owned())),
            Some(aside) => {
                remove(cx, own(cx), hidden.copy, &aside.uid, None).await?;
                Ok((RevertResult::Reverted, "it was not deleted yet; its copy is removed".to_owned()))
            }
        };
    }
    let what = format!("put Secret {namespace}/{name} back");
    match (aside, secret(cx, namespace, name).await?) {
        (Some(aside), Some(now)) if aside.is(&now) => Ok((RevertResult::Nothing, "it is there as before".to_owned())),
        (Some(_), Some(_)) => Ok((
            RevertResult::Superseded,
            format!(
                "others have made another; left so. What it was is kept: look at Secret {}/{copy} and delete it when it is not needed any \
                 more: kubectl -n {} delete secret {copy}",
                own(cx),
                own(cx),
                copy = hidden.copy
            ),
        )),
        // Put back and proven before, or never hidden: either way there is nothing set aside that would be missing.
        (None, Some(_)) => Ok((RevertResult::Nothing, "it is there, and nothing is set aside".to_owned())),
        (aside, None) => {
            let alive = is_alive(cx, namespace).await?;
            match aside {
                Some(aside) if !alive => {
                    remove(cx, own(cx), hidden.copy, &aside.uid, None).await?;
                    Ok((RevertResult::TargetGone, format!("namespace {namespace} is gone; the copy is removed")))
                }
                None if !alive => Ok((RevertResult::TargetGone, format!("namespace {namespace} is gone"))),
                Some(aside) => {
                    cx.leave.to(&what)?;
                    match create(cx, &what, namespace, &aside.back()).await {
                        Ok(()) => Ok((RevertResult::Reverted, "it is there again as before".to_owned())),
                        Err(error) => Err(error),
                    }
                }
                // Whether it was ever hidden cannot be seen here; that it is not there and cannot be put back is for a person.
                None => {
                    let why = format!(
                        "neither it nor its copy {}/{} (of uid {uid}) is there: make it anew from where it came",
                        own(cx),
                        hidden.copy
                    );
                    Err(FaultError::failed(what, why))
                }
            }
        }
    }
}

/// Whether there is a namespace to make something in.
pub(super) async fn is_alive(cx: &FaultCx, namespace: &str) -> Result<bool, FaultError> {
    let there = cx.cluster.get_cluster_opt::<Namespace>(namespace).await?;
    Ok(there.is_some_and(|n| n.metadata.deletion_timestamp.is_none()))
}

/// It is there as it was, and then its copy goes, too.
pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let hidden = parts(undo)?;
    let (namespace, name, uid) = hidden.id;
    until(cx, "that the Secret is there again", limit, || async {
        let aside = copy(cx, &hidden).await?;
        let Some(now) = secret(cx, namespace, name).await? else {
            let alive = is_alive(cx, namespace).await?;
            let gone = format!("namespace {namespace} is gone; no copy is left");
            return Ok(if alive || aside.is_some() { Err("it is not there".to_owned()) } else { Ok(gone) });
        };
        let Some(aside) = aside else {
            let how = if now.uid().as_deref() == Some(uid) { "it is there, never deleted" } else { "it is there" };
            return Ok(Ok(format!("{how}; no copy is left")));
        };
        if !aside.is(&now) {
            return Ok(Err("it is not as before".to_owned()));
        }
        remove(cx, own(cx), hidden.copy, &aside.uid, None).await?;
        Ok(Err("its copy was still there".to_owned()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one() -> Secret {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "db", "uid": "u", "labels": {"a": "b"}, "annotations": {"c": "d"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "x"}],
            },
            "data": {"password": "aHVudGVyMg=="}, "type": "kubernetes.io/basic-auth", "immutable": true,
        }))
        .unwrap()
    }

    #[test]
    fn what_comes_back_is_what_was_there() {
        let secret = one();
        let copy =
            |secret: &Secret| Copy { uid: "c".to_owned(), original: Original::of(secret), data: secret.data.clone().unwrap_or_default() };
        let back = copy(&secret).back();
        assert!(copy(&secret).is(&back));
        assert_eq!(back.metadata.uid, None);
        let strip = |mut secret: Secret| {
            secret.metadata.uid = None;
            serde_json::to_value(secret).unwrap()
        };
        assert_eq!(strip(back), strip(secret.clone()));
        for change in ["/metadata/labels/a", "/metadata/annotations/c", "/data/password", "/type"] {
            let mut value = serde_json::to_value(&secret).unwrap();
            *value.pointer_mut(change).unwrap() = json!("b3RoZXI=");
            assert!(!copy(&secret).is(&serde_json::from_value(value).unwrap()), "{change}");
        }
    }

    /// What is written down of a hidden Secret, wherever.
    #[test]
    fn an_undo_says_nothing_of_the_contents() {
        let undo = Undo::Secret {
            namespace: "shop".to_owned(),
            name: "db".to_owned(),
            uid: "u".to_owned(),
            copy: labels::hidden_copy("shop", "db"),
        };
        let Undo::Secret { namespace, name, uid, copy } = &undo else { panic!("not a Secret") };
        assert_eq!([namespace, name, uid], ["shop", "db", "u"]);
        assert!(copy.starts_with("hidden-") && copy.len() < 64, "{copy}");
        assert_ne!(*copy, labels::hidden_copy("shop-db", ""));
    }
}
