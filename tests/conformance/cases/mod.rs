//! The cases, by what they are about.

mod applies;
mod cluster;
mod containers;
mod controllers;
mod custom;
mod defaults;
mod deletes;
mod drills;
mod invalid;
mod jobs;
mod lists;
mod metadata;
mod patches;
mod pods;
mod rbac;
mod refused;
mod security;
mod subresources;
mod verbs;
mod watches;

use crate::Case;

/// Every case of the suite.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    let all: &'static [&'static [Case]] = &[
        verbs::CASES,
        metadata::CASES,
        lists::CASES,
        patches::CASES,
        applies::CASES,
        deletes::CASES,
        subresources::CASES,
        pods::CASES,
        security::CASES,
        watches::CASES,
        rbac::CASES,
        invalid::CASES,
        refused::CASES,
        defaults::CASES,
        custom::CASES,
        cluster::CASES,
        drills::CASES,
        controllers::CASES,
        jobs::CASES,
        containers::CASES,
    ];
    all.iter().copied().flatten()
}
