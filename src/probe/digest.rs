//! A digest of rows, computed in the database: whether a restored copy holds what its source holds.
//!
//! Only three numbers leave the database: how many rows the query gives, and the sums of the two halves of the first 128
//! bits of each row's SHA-256, as whole numbers of any size. Sums, because they stream: a hash over all rows in order
//! (`string_agg`) holds the whole table in one value of at most 1 GB, and depends on an order that differs between
//! collations of two machines; rows in a table have no order to compare anyway. A row changed, missing, added or doubled
//! changes the sums; two different sets of rows with the same sums would be a collision of 128 bits, which chance does not
//! make. A row's text is read under fixed settings (time zone, dates, floats, bytea), so that two servers write equal rows alike.
//!
//! The way there is that of `forward`.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::forward::{self, said};
use crate::{
    cluster::Cluster,
    journal::{DigestWhich, Reading},
    plan::Plan,
    scenario::types::{DigestSide, Postgres},
};

/// Reads one side's digest within a limit. What goes wrong becomes [`Reading::Failed`]: a digest that could not be read decides nothing.
pub async fn read(
    cluster: &Cluster,
    plan: &Plan,
    drill: &str,
    side: &DigestSide,
    query: &str,
    which: DigestWhich,
    limit: Duration,
) -> Reading {
    match tokio::time::timeout(limit, digest(cluster, plan, drill, &side.postgres, query, limit)).await {
        Ok(Ok((rows, digest))) => Reading::Digest { side: which, digest, rows },
        Ok(Err(detail)) => Reading::Failed { detail },
        Err(_) => Reading::Failed { detail: format!("the digest was not computed within {}", crate::scenario::types::Dur(limit)) },
    }
}

async fn digest(cluster: &Cluster, plan: &Plan, drill: &str, at: &Postgres, query: &str, limit: Duration) -> Result<(u64, String), String> {
    let database = forward::database(cluster, plan, drill, at, forward::TRIES).await.map_err(|error| error.to_string())?;
    let name = &database.name;
    let row = ask(database.client(), query, limit).await;
    let (rows, first, second) = row.map_err(|e| format!("failed to compute the digest in {name}: {}", said(&e)))?;
    let rows = u64::try_from(rows).map_err(|_| format!("{name} counted {rows} rows"))?;
    Ok((rows, hex::encode(&Sha256::digest(format!("{rows} {first} {second}"))[..16])))
}

/// The wrapped query. The user's is a sub-select on lines of its own, so that a remark at its end does not eat the rest.
fn wrapped(query: &str) -> String {
    let query = query.trim().trim_end_matches(';');
    let half = |from: u8| format!("coalesce(sum(('x' || substr(h, {from}, 16))::bit(64)::bigint::numeric), 0)::text");
    format!(
        "select count(*), {}, {} from (select encode(sha256(convert_to(r::text, 'UTF8')), 'hex') as h from (\n{query}\n) as r) as hashes",
        half(1),
        half(17)
    )
}

async fn ask(client: &tokio_postgres::Client, query: &str, limit: Duration) -> Result<(i64, String, String), tokio_postgres::Error> {
    // One snapshot, nothing written, and rows written as text alike on every server.
    let settings = format!(
        "begin transaction isolation level repeatable read read only; set local statement_timeout = {}; set local timezone = 'UTC'; \
         set local datestyle = 'ISO, YMD'; set local intervalstyle = 'iso_8601'; set local extra_float_digits = 1; \
         set local bytea_output = 'hex'; set local xmlbinary = 'base64'",
        limit.as_millis().min(i32::MAX as u128)
    );
    client.batch_execute(&settings).await?;
    let row = client.query_one(wrapped(query).as_str(), &[]).await?;
    let answer = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    client.batch_execute("rollback").await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_wrapped_whole() {
        let sql = wrapped(" select id from t -- all of it\n ;");
        assert!(sql.contains("from (\nselect id from t -- all of it\n \n) as r"), "{sql}");
        assert!(sql.contains("substr(h, 1, 16)") && sql.contains("substr(h, 17, 16)"));
    }
}
