//! What operators write, and what their users get of it.

use domain::{EngineId, Priority};
use protocol::{
    identity::{ListEngines, Resolve},
    operate::{Assign, Assignee, Deploy, PutKey, PutLevel, PutUser, RotateKey},
};
use storage::{StorageError, admin};

use crate::ledger::{Ledger, now, raw};

fn level(name: &str) -> PutLevel {
    PutLevel {
        name: name.into(),
        weight: 2.0,
        max_running: Some(3),
        max_queued: None,
        requests_per_minute: None,
        max_priority: Priority::High,
    }
}

fn flow(name: &str, text: &str) -> Deploy {
    Deploy { name: name.into(), title: "T".into(), description: String::new(), flow: raw(text) }
}

#[tokio::test]
async fn members_of_a_level_get_its_engines_and_the_current_version() {
    let ledger = Ledger::start().await;
    let (mut conn, term) = (ledger.conn().await, ledger.term);
    let gold = admin::put_level(&mut conn, term, &level("gold")).await.unwrap();
    let early =
        admin::put_user(&mut conn, term, &PutUser { name: "early".into(), level: "gold".into() }).await.unwrap();
    let first = admin::deploy(&mut conn, term, &flow("blog", r#"{"v":1}"#)).await.unwrap();
    let to = Assignee::Level(gold.id);
    let assigned = admin::assign(&mut conn, term, &Assign { engine_id: first.engine_id, to }).await.unwrap();
    let late = admin::put_user(&mut conn, term, &PutUser { name: "late".into(), level: "gold".into() }).await.unwrap();

    let same = admin::deploy(&mut conn, term, &flow("blog", r#"{"v":1}"#)).await.unwrap();
    let next = admin::deploy(&mut conn, term, &flow("blog", r#"{"v":2}"#)).await.unwrap();

    assert_eq!((first.number, same.number, same.created, next.number), (1, 1, false, 2));
    assert_eq!(assigned.user_engines.len(), 1);
    for user_id in [early.id, late.id] {
        let query = ListEngines { user_id, user_engine_id: None };
        let engines = storage::identity::engines(&mut conn, &query).await.unwrap();
        assert_eq!(engines.iter().map(|engine| engine.version_id).collect::<Vec<_>>(), [next.version_id]);
        let copy = engines[0].user_engine_id.unwrap().to_string();
        for engine in ["blog".to_owned(), first.engine_id.to_string(), copy] {
            let query = Resolve { user_id, user_engine_id: None, engine, version_id: None };
            assert!(storage::identity::resolve(&mut conn, &query).await.unwrap().is_some());
        }
    }
    let query = Resolve { user_id: ledger.user, user_engine_id: None, engine: "blog".into(), version_id: None };
    assert!(storage::identity::resolve(&mut conn, &query).await.unwrap().is_none(), "it was not assigned to them");
    let version = storage::versions::get(&mut conn, first.version_id).await.unwrap().unwrap();
    assert_eq!((version.flow.get(), version.engine_name.as_str()), (r#"{"v":1}"#, "blog"));
    let limits = storage::identity::limits(&mut conn, &[early.id]).await.unwrap();
    assert_eq!((limits[0].max_running, limits[0].max_queued), (Some(3), None));
}

#[tokio::test]
async fn what_is_named_and_not_there_is_a_conflict() {
    let ledger = Ledger::start().await;
    let (mut conn, term) = (ledger.conn().await, ledger.term);
    admin::put_level(&mut conn, term, &level("gold")).await.unwrap();
    let user = admin::put_user(&mut conn, term, &PutUser { name: "u".into(), level: "gold".into() }).await.unwrap();

    let no_level = admin::put_user(&mut conn, term, &PutUser { name: "v".into(), level: "silver".into() }).await;
    let assign = Assign { engine_id: EngineId::generate(), to: Assignee::User(user.id) };
    let no_engine = admin::assign(&mut conn, term, &assign).await;

    assert!(matches!(no_level, Err(StorageError::Conflict(_))), "{no_level:?}");
    assert!(matches!(no_engine, Err(StorageError::Conflict(_))), "{no_engine:?}");
}

#[tokio::test]
async fn a_rotated_key_lives_through_its_grace_and_a_revoked_one_not_at_all() {
    let ledger = Ledger::start().await;
    let (mut conn, term) = (ledger.conn().await, ledger.term);
    admin::put_level(&mut conn, term, &level("gold")).await.unwrap();
    let user = admin::put_user(&mut conn, term, &PutUser { name: "u".into(), level: "gold".into() }).await.unwrap();
    let put = PutKey {
        user_id: user.id,
        user_engine_id: None,
        name: String::new(),
        public_id: "aaaaaaaa".into(),
        hash: "ab".repeat(32),
        last_four: "1234".into(),
        origins: vec!["https://a.example".into()],
        expires_at: None,
    };
    let old = admin::put_key(&mut conn, term, &put).await.unwrap();
    let rotate = RotateKey {
        key_id: old.id,
        user_id: None,
        public_id: "bbbbbbbb".into(),
        hash: "cd".repeat(32),
        last_four: "5678".into(),
        grace_ms: 3_600_000,
    };
    let foreign = RotateKey { user_id: Some(ledger.user), ..rotate.clone() };

    assert!(admin::rotate_key(&mut conn, term, &foreign).await.unwrap().is_none());
    let new = admin::rotate_key(&mut conn, term, &rotate).await.unwrap().unwrap();
    let before = storage::identity::key(&mut conn, "aaaaaaaa").await.unwrap().unwrap();
    assert!(admin::revoke_key(&mut conn, term, new.id).await.unwrap());
    assert!(!admin::revoke_key(&mut conn, term, new.id).await.unwrap());

    assert_eq!((before.expired, before.revoked, before.hash), (false, false, vec![0xab; 32]));
    let after = storage::identity::key(&mut conn, "bbbbbbbb").await.unwrap().unwrap();
    assert_eq!((after.expired, after.revoked), (false, true));
    assert_eq!(after.principal.origins, ["https://a.example"]);
    assert_eq!(after.principal.level.max_priority, Priority::High);
    assert!(storage::identity::key(&mut conn, "cccccccc").await.unwrap().is_none());
    let at_once = RotateKey { public_id: "dddddddd".into(), grace_ms: 0, ..rotate };
    let again = admin::rotate_key(&mut conn, term, &at_once).await.unwrap_err();
    assert!(matches!(&again, StorageError::Conflict(why) if why.contains(&new.id.to_string())), "{again}");
    let other = admin::put_key(&mut conn, term, &key(user.id, "eeeeeeee", None)).await.unwrap();
    let at_once = RotateKey { key_id: other.id, ..at_once };
    admin::rotate_key(&mut conn, term, &at_once).await.unwrap().unwrap();
    assert!(storage::identity::key(&mut conn, "eeeeeeee").await.unwrap().unwrap().expired);
}

fn key(user_id: domain::UserId, public_id: &str, expires_at: Option<chrono::DateTime<chrono::Utc>>) -> PutKey {
    PutKey {
        user_id,
        user_engine_id: None,
        name: String::new(),
        public_id: public_id.into(),
        hash: "ab".repeat(32),
        last_four: "1234".into(),
        origins: vec![],
        expires_at,
    }
}

#[tokio::test]
async fn a_rotated_key_ends_when_the_old_one_would_have() {
    let ledger = Ledger::start().await;
    let (mut conn, term) = (ledger.conn().await, ledger.term);
    admin::put_level(&mut conn, term, &level("gold")).await.unwrap();
    let user = admin::put_user(&mut conn, term, &PutUser { name: "u".into(), level: "gold".into() }).await.unwrap();
    let soon = now() + chrono::Duration::milliseconds(1_500);
    let old = admin::put_key(&mut conn, term, &key(user.id, "aaaaaaaa", Some(soon))).await.unwrap();

    let rotate = RotateKey {
        key_id: old.id,
        user_id: None,
        public_id: "bbbbbbbb".into(),
        hash: "cd".repeat(32),
        last_four: "5678".into(),
        grace_ms: 3_600_000,
    };
    admin::rotate_key(&mut conn, term, &rotate).await.unwrap().unwrap();

    for public_id in ["aaaaaaaa", "bbbbbbbb"] {
        let sql = "SELECT extract(epoch FROM expires_at)::float8 FROM api_keys WHERE public_id = $1";
        let at: f64 = ledger.psql().await.query_one(sql, &[&public_id]).await.unwrap().get(0);
        assert!((at - soon.timestamp_micros() as f64 / 1e6).abs() < 0.001, "{public_id}");
    }
}

#[tokio::test]
async fn looking_a_key_up_writes_nothing_and_its_use_is_noted_once_a_minute() {
    let ledger = Ledger::start().await;
    let (mut conn, term) = (ledger.conn().await, ledger.term);
    admin::put_level(&mut conn, term, &level("gold")).await.unwrap();
    let user = admin::put_user(&mut conn, term, &PutUser { name: "u".into(), level: "gold".into() }).await.unwrap();
    let made = admin::put_key(&mut conn, term, &key(user.id, "aaaaaaaa", None)).await.unwrap();
    let used = async || -> Option<std::time::SystemTime> {
        ledger.psql().await.query_one("SELECT last_used_at FROM api_keys", &[]).await.unwrap().get(0)
    };

    let before = storage::identity::key(&mut conn, "aaaaaaaa").await.unwrap().unwrap();
    assert!(!before.used_lately && used().await.is_none());
    storage::identity::touch(&mut conn, made.id).await.unwrap();
    let first = used().await;
    storage::identity::touch(&mut conn, made.id).await.unwrap();

    assert!(first.is_some());
    assert_eq!(used().await, first);
    assert!(storage::identity::key(&mut conn, "aaaaaaaa").await.unwrap().unwrap().used_lately);
}

#[tokio::test]
async fn a_text_that_cannot_be_stored_is_told_from_a_fault_of_ours() {
    let ledger = Ledger::start().await;
    let (mut conn, term) = (ledger.conn().await, ledger.term);

    let named = admin::put_user(&mut conn, term, &PutUser { name: "u".into(), level: "a\u{0}".into() }).await;
    let asked = Resolve { user_id: ledger.user, user_engine_id: None, engine: "a\u{0}".into(), version_id: None };
    let asked = storage::identity::resolve(&mut conn, &asked).await;

    assert!(matches!(named, Err(StorageError::Poison(_))), "{named:?}");
    assert!(matches!(asked, Err(StorageError::Poison(_))), "{asked:?}");
}
