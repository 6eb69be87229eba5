//! A fake status: the paths an executor uses, over real HTTP, with faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::{Service, ServiceRequest},
    web,
};
use bytes::Bytes;
use parking_lot::Mutex;
use protocol::{
    claim::{ClaimRequest, ClaimResponse, Renewal},
    read::{Found, ReadUnits, ReadVersion, UnitOutput, Units, VersionView},
    report::{ReportRequest, ReportResponse},
};

use crate::ledger::Ledger;

/// The server and its ledger.
#[derive(Clone, Default)]
pub(crate) struct FakeStatus(Arc<Shared>);

#[derive(Default)]
struct Shared {
    ledger: Mutex<Ledger>,
    /// Everything is refused.
    away: AtomicBool,
    /// Renewals are refused.
    deaf: AtomicBool,
    /// The next so many claims are taken, and their answers are lost.
    lose_claims: AtomicUsize,
    /// The next so many reports are taken, and their answers are lost.
    lose_reports: AtomicUsize,
    reporting: AtomicBool,
    sessions: AtomicUsize,
    unit_reads: AtomicUsize,
    /// Paths that were asked, with whether the request had trace context.
    traced: Mutex<Vec<(String, bool)>>,
    /// Reports that were refused.
    refused: AtomicUsize,
    /// Answers of the scripted provider, the next one first.
    script: Mutex<Vec<String>>,
}

fn one_less(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

impl FakeStatus {
    pub(crate) fn ledger<R>(&self, look: impl FnOnce(&mut Ledger) -> R) -> R {
        look(&mut self.0.ledger.lock())
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.0.deaf.store(deaf, Ordering::SeqCst);
    }

    pub(crate) fn lose_claims(&self, count: usize) {
        self.0.lose_claims.store(count, Ordering::SeqCst);
    }

    pub(crate) fn lose_reports(&self, count: usize) {
        self.0.lose_reports.store(count, Ordering::SeqCst);
    }

    pub(crate) fn sessions(&self) -> usize {
        self.0.sessions.load(Ordering::SeqCst)
    }

    /// Waits until so many more reports were refused.
    pub(crate) async fn until_more_reports_are_refused(&self, count: usize) {
        let enough = self.0.refused.load(Ordering::SeqCst) + count;
        let refused = async || self.0.refused.load(Ordering::SeqCst) >= enough;
        testkit::wait::until_true(crate::world::DEADLINE, "refused reports", refused).await;
    }

    pub(crate) fn unit_reads(&self) -> usize {
        self.0.unit_reads.load(Ordering::SeqCst)
    }

    /// Everything that was asked so far.
    pub(crate) fn traced(&self) -> Vec<(String, bool)> {
        self.0.traced.lock().clone()
    }

    pub(crate) fn script(&self, answers: &[&str]) {
        *self.0.script.lock() = answers.iter().rev().map(|answer| (*answer).to_owned()).collect();
    }

    /// Serves on a free port; returns the base URL.
    pub(crate) fn serve(&self) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let data = web::Data::new(self.clone());
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .app_data(web::JsonConfig::default().limit(64 << 20))
                .wrap_fn(note)
                .route("/internal/v1/claims", web::post().to(claim))
                .route("/internal/v1/reports", web::post().to(report))
                .route("/internal/v1/renewals", web::post().to(renew))
                .route("/internal/v1/session", web::get().to(session))
                .route("/internal/v1/units", web::post().to(units))
                .route("/internal/v1/versions/get", web::post().to(version))
                .route("/v1/chat/completions", web::post().to(scripted))
        })
        .workers(1)
        .disable_signals()
        .shutdown_timeout(0)
        .listen(listener)
        .unwrap()
        .run();
        tokio::spawn(server);
        format!("http://{address}")
    }

    fn is_away(&self) -> bool {
        self.0.away.load(Ordering::SeqCst)
    }
}

/// Notes the request and passes it on.
fn note<S: Service<ServiceRequest>>(request: ServiceRequest, next: &S) -> S::Future {
    if let Some(status) = request.app_data::<web::Data<FakeStatus>>() {
        let traced = service::trace::from_request(request.request()).is_some();
        status.0.traced.lock().push((request.path().to_owned(), traced));
    }
    next.call(request)
}

fn unavailable() -> HttpResponse {
    HttpResponse::ServiceUnavailable().finish()
}

async fn claim(status: web::Data<FakeStatus>, request: web::Json<ClaimRequest>) -> HttpResponse {
    if status.is_away() {
        return unavailable();
    }
    let mut answer = ClaimResponse { grants: Vec::new(), refused: Vec::new() };
    status.ledger(|ledger| {
        for claim in &request.claims {
            match ledger.claim(request.executor_id, *claim) {
                Some(grant) => answer.grants.push(grant),
                None => answer.refused.push(claim.execution_id),
            }
        }
    });
    if one_less(&status.0.lose_claims) { unavailable() } else { HttpResponse::Ok().json(answer) }
}

async fn report(status: web::Data<FakeStatus>, request: web::Json<ReportRequest>) -> HttpResponse {
    if status.is_away() {
        status.0.refused.fetch_add(1, Ordering::SeqCst);
        return unavailable();
    }
    assert!(!status.0.reporting.swap(true, Ordering::SeqCst), "reports come one at a time");
    let answer = status.ledger(|ledger| {
        ledger.reports += 1;
        ledger.largest_report = ledger.largest_report.max(request.reports.len());
        let verdicts = request.reports.iter().map(|report| ledger.report(request.executor_id, report)).collect();
        let ids = request.reports.iter().map(|report| report.execution_id);
        let watched = if ledger.watched { ids.collect() } else { Vec::new() };
        ReportResponse { verdicts, watched }
    });
    status.0.reporting.store(false, Ordering::SeqCst);
    if one_less(&status.0.lose_reports) { unavailable() } else { HttpResponse::Ok().json(answer) }
}

async fn renew(status: web::Data<FakeStatus>, renewal: web::Json<Renewal>) -> HttpResponse {
    if status.is_away() || status.0.deaf.load(Ordering::SeqCst) {
        return unavailable();
    }
    HttpResponse::Ok().json(status.ledger(|ledger| ledger.renew(&renewal)))
}

async fn session(status: web::Data<FakeStatus>) -> HttpResponse {
    if status.is_away() {
        return unavailable();
    }
    status.0.sessions.fetch_add(1, Ordering::SeqCst);
    let beats = futures::stream::unfold((), |()| async {
        // Sleeps: the pace of the leader's beats.
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((Ok::<_, actix_web::Error>(Bytes::from_static(b".")), ()))
    });
    HttpResponse::Ok().streaming(beats)
}

async fn units(status: web::Data<FakeStatus>, request: web::Json<ReadUnits>) -> HttpResponse {
    status.0.unit_reads.fetch_add(1, Ordering::SeqCst);
    let units = status.ledger(|ledger| {
        let units = ledger.rows[&request.execution_id].units.values();
        units.map(|unit| UnitOutput { key: unit.key.clone(), output: unit.output.clone() }).collect()
    });
    HttpResponse::Ok().json(Units { units })
}

async fn version(status: web::Data<FakeStatus>, request: web::Json<ReadVersion>) -> HttpResponse {
    let flow = status.ledger(|ledger| ledger.versions.get(&request.version_id).cloned());
    let found = flow.map_or(Found::Missing, |flow| {
        Found::Found(VersionView {
            version_id: request.version_id,
            engine_id: domain::EngineId::generate(),
            engine_name: "engine".to_owned(),
            flow,
        })
    });
    HttpResponse::Ok().json(found)
}

/// A provider that says what the test wrote for it.
async fn scripted(status: web::Data<FakeStatus>) -> HttpResponse {
    let content = status.0.script.lock().pop().unwrap_or_default();
    HttpResponse::Ok().json(serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "scripted",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }))
}
