//! The transactions of an `sql` fault on a real PostgreSQL, which the test starts by itself: what is counted, what is rolled back, what the
//! mark tells, and what becomes of a transaction that nobody goes on with.

use std::{
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use firedrill::{
    cluster::Leave,
    fault::sql::transaction::{Mark, NotDone, Undone, Wanted, forget, inject, look, prepare, revert, settled},
};
use tokio_postgres::{Client, Config, NoTls};

/// The server refuses to run as root.
const NOBODY: u32 = 65_534;
const LIMIT: Duration = Duration::from_secs(60);

/// A server of its own on a free port, gone with the test.
struct Server {
    bin: PathBuf,
    home: tempfile::TempDir,
    port: u16,
}

impl Server {
    /// Starts one; none, with the reason, where there is no PostgreSQL.
    async fn start() -> Option<Self> {
        let versions = (15..=18).rev().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
        let Some(bin) = versions.into_iter().find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists()) else {
            println!("SKIPPED: there is no PostgreSQL under /usr/lib/postgresql. This suite needs it: apt-get install postgresql-15");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { bin, home, port };
        let made =
            server.run("initdb").args(["-U", "admin", "--auth=trust", "-N", "--locale=C", "-E", "UTF8", "-D"]).arg(server.data()).status();
        assert!(made.unwrap().success(), "initdb failed");
        let options = format!("-p {port} -F -c listen_addresses=127.0.0.1 -c unix_socket_directories=");
        let mut start = server.run("pg_ctl");
        start.args(["start", "-w", "-l"]).arg(server.home.path().join("log")).arg("-D").arg(server.data()).args(["-o", &options]);
        let ok = start.status().unwrap().success();
        assert!(ok, "{}", std::fs::read_to_string(server.home.path().join("log")).unwrap_or_default());
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn run(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.home.path()).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        if is_root(self.home.path()) {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    async fn connect(&self, user: &str) -> Client {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(user).dbname("postgres");
        let (client, connection) = tokio::time::timeout(LIMIT, config.connect(NoTls)).await.unwrap().unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data();
        drop(self.run("pg_ctl").args(["stop", "-m", "immediate", "-D"]).arg(data).status());
    }
}

/// Whoever made the folder is who runs the test.
fn is_root(home: &Path) -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(home).unwrap()) == 0
}

/// Items with parts that go with them, a log that a trigger keeps, one that is kept at the commit only, and a function that truncates.
const WORLD: &str = "
    create table items (id int primary key, state text not null default 'sold');
    create table parts (id int primary key, item int not null references items on delete cascade);
    create table changes (id int generated always as identity, item int);
    create table late (id int generated always as identity, item int);
    insert into items select n from generate_series(1, 100) n;
    insert into parts select n, 1 + n % 100 from generate_series(1, 300) n;
    create function keep() returns trigger language plpgsql as $$ begin insert into changes (item) values (new.id); return new; end $$;
    create function keep_late() returns trigger language plpgsql as
        $$ begin insert into late (item) select new.id from generate_series(1, 4); return new; end $$;
    create trigger kept after update on items for each row execute function keep();
    create constraint trigger kept_late after insert on items deferrable initially deferred for each row execute function keep_late();
    create function wipe() returns int language plpgsql security definer as $$ begin truncate parts; return 1; end $$;
    create role shop login;
    create role blind login;
    create role reader login;
    grant select, insert, update, delete on items, parts, changes, late to shop, blind;
    grant select, update on items to reader;
    grant insert on changes to reader;
    alter role blind set track_counts = off;";

fn wanted(statement: &str, revert: Option<&str>, most: u64) -> Wanted {
    Wanted { statement: statement.to_owned(), revert: revert.map(str::to_owned), most }
}

/// Each of ten items and the line that its trigger keeps: twenty rows, there and back.
fn lose_ten() -> Wanted {
    wanted("update items set state = 'lost' where id <= 10", Some("update items set state = 'sold' where state = 'lost'"), 20)
}

async fn one(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn lost(client: &Client) -> i64 {
    one(client, "select count(*) from items where state = 'lost'").await
}

async fn objects(client: &Client) -> i64 {
    one(client, "select count(*) from pg_largeobject_metadata").await
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, NotDone>, part: &str) {
    match outcome {
        Err(NotDone::No(why)) if why.contains(part) => {}
        other => panic!("`{part}` expected: {other:?}"),
    }
}

fn always() -> Leave {
    Leave::always()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_are_counted_and_marked_on_a_real_server() {
    let Some(server) = Server::start().await else { return };
    server.connect("admin").await.batch_execute(WORLD).await.unwrap();
    let shop = server.connect("shop").await;
    there_and_back(&server, &shop).await;
    what_is_not_committed(&server, &shop).await;
    what_others_have_changed(&server, &shop).await;
    what_is_seen_before(&server, &shop).await;
    a_runner_that_is_lost(&server, &shop).await;
    an_injection_that_is_late(&server).await;
    assert_eq!((lost(&shop).await, objects(&shop).await), (0, 0));
}

async fn there_and_back(server: &Server, shop: &Client) {
    let mark = Mark::new("d", "there and back");
    let elsewhere = server.connect("shop").await;
    assert_eq!(revert(shop, &mark, lose_ten().revert.as_deref(), &always()).await, Ok(Undone::Nothing), "without inject");
    prepare(shop, &mark, &lose_ten()).await.unwrap();
    assert_eq!((lost(shop).await, objects(shop).await), (0, 0), "prepare changes nothing");
    assert_eq!(inject(shop, &mark, &lose_ten(), &always()).await, Ok(20));
    assert_eq!((lost(&elsewhere).await, objects(&elsewhere).await), (10, 1));
    assert_eq!(look(&elsewhere, &mark).await, Ok(Some(20)));
    // Others have put one back: the second injection must not lose it again.
    elsewhere.batch_execute("update items set state = 'sold' where id = 1").await.unwrap();
    assert_eq!(inject(&elsewhere, &mark, &lose_ten(), &always()).await, Ok(20), "twice");
    assert_eq!(lost(shop).await, 9);
    elsewhere.batch_execute("update items set state = 'lost' where id = 1").await.unwrap();
    assert_eq!(revert(&elsewhere, &mark, lose_ten().revert.as_deref(), &always()).await, Ok(Undone::Reverted(20)));
    assert_eq!((lost(shop).await, objects(shop).await), (0, 0));
    assert_eq!(revert(shop, &mark, lose_ten().revert.as_deref(), &always()).await, Ok(Undone::Nothing), "twice");
    assert_eq!(settled(shop, &mark).await, Ok(None));
    // Cascades count: each item has three parts.
    let cascade = "delete from items where id = 7";
    let back = "with one as (insert into items (id) values (7)) insert into parts select n, 7 from unnest(array[6, 106, 206]) n";
    let mark = Mark::new("d", "cascade");
    refused(inject(shop, &mark, &wanted(cascade, None, 3), &always()).await, "it touches 4 rows, and `maxRows` is 3");
    // With what the insert keeps at the commit it is four rows and four more, and the fault was four.
    refused(inject(shop, &mark, &wanted(cascade, Some(back), 4), &always()).await, "it touches 4 rows and its `revert` 8");
    assert_eq!(one(shop, "select count(*) from parts").await, 300);
    // Without a statement that undoes it the rows are the runbook's, and the mark goes when they are left to it.
    assert_eq!(inject(shop, &mark, &wanted(cascade, None, 4), &always()).await, Ok(4));
    assert_eq!(revert(shop, &mark, None, &always()).await, Ok(Undone::NoStatement(4)));
    assert_eq!((forget(shop, &mark, &always()).await, forget(shop, &mark, &always()).await), (Ok(true), Ok(false)));
    shop.batch_execute(back).await.unwrap();
    assert_eq!((one(shop, "select count(*) from parts").await, objects(shop).await), (300, 0));
}

async fn what_is_not_committed(server: &Server, shop: &Client) {
    let before = one(shop, "select count(*) from late").await;
    let lose = "update items set state = 'lost' where id <= 10";
    for (statement, back, most, part) in [
        (lose, None, 19, "it touches 20 rows, and `maxRows` is 19: rolled back"),
        ("update items set state = 'lost' where id > 1000", None, 9, "it touches no row"),
        ("delete from parts; commit", None, 900, "it is more than one statement"),
        ("select wipe()", None, 900, "it changes definitions or truncates a table"),
        ("select id into stolen from items", None, 900, "permission denied"),
        ("insert into items (id) values (1000)", None, 4, "it touches 5 rows, and `maxRows` is 4"),
        ("update items set state = $1", None, 900, "it has parameters"),
        ("commit", None, 9, "`commit` has to do with transactions"),
        (lose, Some("update items set state = 'sold' where id = 1"), 20, "it touches 20 rows and its `revert` 2"),
        (lose, Some("update nothing set a = 1"), 20, "its `revert` would fail, so it is rolled back: relation \"nothing\" does not exist"),
        (lose, Some("select wipe()"), 20, "its `revert` would fail"),
    ] {
        let mark = Mark::new("d", statement);
        let outcome = inject(shop, &mark, &wanted(statement, back, most), &always()).await;
        refused(outcome, part);
        assert_eq!((lost(shop).await, objects(shop).await), (0, 0), "{statement}");
        assert_eq!(look(shop, &mark).await, Ok(None));
    }
    assert_eq!((one(shop, "select count(*) from parts").await, one(shop, "select count(*) from late").await), (300, before));
    // Not allowed to undo what it may do: seen before it is done. (It may not read the line that the trigger keeps either.)
    let reader = server.connect("reader").await;
    let outcome = inject(&reader, &Mark::new("d", "r"), &wanted(lose, Some("delete from items where state = 'lost'"), 20), &always()).await;
    refused(outcome, "its `revert` would fail, so it is rolled back: permission denied for table items");
}

async fn what_others_have_changed(server: &Server, shop: &Client) {
    let mark = Mark::new("d", "others");
    inject(shop, &mark, &lose_ten(), &always()).await.unwrap();
    let other = server.connect("admin").await;
    other.batch_execute("update items set state = 'returned' where id <= 3").await.unwrap();
    let undo = lose_ten().revert;
    for _ in 0..2 {
        assert_eq!(revert(shop, &mark, undo.as_deref(), &always()).await, Ok(Undone::Superseded { rows: 20, undo: 14 }));
        assert_eq!((lost(shop).await, objects(shop).await), (7, 1), "nothing is written, and it can be told again");
    }
    other.batch_execute("update items set state = 'lost' where id <= 3").await.unwrap();
    assert_eq!(revert(shop, &mark, undo.as_deref(), &always()).await, Ok(Undone::Reverted(20)));
}

async fn what_is_seen_before(server: &Server, shop: &Client) {
    let mark = Mark::new("d", "before");
    for (statement, back, part) in [
        ("update nothing set a = 1", None, "`statement`: relation \"nothing\" does not exist"),
        ("update items set state = 1 +", None, "`statement`: syntax error"),
        ("delete from items", Some("insert into itmes default values"), "`revert`: relation \"itmes\" does not exist"),
        ("delete from items", Some("truncate items"), "`revert`: the rows that `truncate` touches cannot be counted"),
    ] {
        refused(prepare(shop, &mark, &wanted(statement, back, 9)).await, part);
    }
    refused(prepare(&server.connect("blind").await, &mark, &lose_ten()).await, "set `track_counts = on`");
    inject(shop, &mark, &lose_ten(), &always()).await.unwrap();
    let other = Mark::new("e", "before");
    refused(prepare(shop, &other, &lose_ten()).await, "drill d has changed 20 rows in it; undo that first: firedrill revert d");
    // Another drill's revert, of whatever mark, is none of this one.
    assert_eq!(revert(shop, &other, lose_ten().revert.as_deref(), &always()).await, Ok(Undone::Nothing));
    assert_eq!(lost(shop).await, 10);
    assert_eq!(revert(shop, &mark, lose_ten().revert.as_deref(), &always()).await, Ok(Undone::Reverted(20)));
}

/// A runner that dies before the commit has changed nothing and holds nothing.
async fn a_runner_that_is_lost(server: &Server, shop: &Client) {
    let mark = Mark::new("d", "lost");
    let never = Leave::new(|| Err("killed here".to_owned()));
    refused(inject(shop, &mark, &lose_ten(), &never).await, "killed here");
    assert_eq!((lost(shop).await, settled(shop, &mark).await), (0, Ok(None)));
    inject(shop, &mark, &lose_ten(), &always()).await.unwrap();
    refused(revert(shop, &mark, lose_ten().revert.as_deref(), &never).await, "killed here");
    assert_eq!((lost(shop).await, look(shop, &mark).await), (10, Ok(Some(20))));
    revert(&server.connect("shop").await, &mark, lose_ten().revert.as_deref(), &always()).await.unwrap();
}

/// An injection that stands before its commit when its revert comes: the revert waits for it, and undoes it; or the server ends it.
async fn an_injection_that_is_late(server: &Server) {
    for (held, expected) in [(Duration::from_secs(1), Undone::Reverted(20)), (Duration::from_secs(12), Undone::Nothing)] {
        let mark = Mark::new("d", &format!("late {held:?}"));
        let (there, wait) = mpsc::channel();
        let there = std::sync::Mutex::new(there);
        let leave = Leave::new(move || {
            there.lock().unwrap().send(()).unwrap();
            std::thread::sleep(held);
            Ok(())
        });
        let (client, own) = (server.connect("shop").await, mark.clone());
        let injecting = tokio::spawn(async move { inject(&client, &own, &lose_ten(), &leave).await });
        tokio::task::spawn_blocking(move || wait.recv_timeout(LIMIT)).await.unwrap().unwrap();
        let shop = server.connect("shop").await;
        assert_eq!(revert(&shop, &mark, lose_ten().revert.as_deref(), &always()).await, Ok(expected), "{held:?}");
        let injected = injecting.await.unwrap();
        match expected {
            Undone::Reverted(_) => assert_eq!(injected, Ok(20)),
            // The commit meets a server that has ended the session.
            _ => assert!(matches!(injected, Err(NotDone::Unknown(_))), "{injected:?}"),
        }
        assert_eq!((lost(&shop).await, settled(&shop, &mark).await), (0, Ok(None)), "{held:?}");
    }
}
