//! Who changed what, and how it ended: one line of the log for every change that was asked for, also for those refused.

use std::fmt::Display;

use actix_web::HttpResponse;
use service::Problem;

use crate::token::{Operator, Role};

/// What a change came to.
pub(crate) struct Changed {
    /// The id of what was changed or made.
    pub(crate) object: String,
    pub(crate) response: HttpResponse,
}

impl Changed {
    pub(crate) fn new(object: impl Display, response: HttpResponse) -> Self {
        Self { object: object.to_string(), response }
    }
}

impl Operator {
    /// Makes a change for whoever has the role. `named` is what the operator calls the object, for changes that come to
    /// nothing.
    pub(crate) async fn change<W>(
        &self,
        role: Role,
        action: &'static str,
        named: &str,
        work: W,
    ) -> Result<HttpResponse, Problem>
    where
        W: Future<Output = Result<Changed, Problem>>,
    {
        let result = match self.require(role) {
            Ok(()) => work.await,
            Err(refused) => Err(refused),
        };
        let (object, outcome) = match &result {
            Ok(changed) => (changed.object.as_str(), "done"),
            Err(problem) => (named, problem.code.as_str()),
        };
        tracing::info!(
            target: "audit", operator = %self.subject, role = self.role.as_str(), action, object = ?object, outcome,
            "an operator asked for a change"
        );
        result.map(|changed| changed.response)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use service::ProblemCode;
    use tracing::instrument::WithSubscriber as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    async fn audited(role: Role, result: Result<&str, ProblemCode>) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .with_max_level(tracing::Level::INFO);
        let operator = Operator { subject: "eve".into(), role };
        let work = async { result.map(|id| Changed::new(id, HttpResponse::Ok().finish())).map_err(Problem::new) };
        let change = operator.change(Role::Operator, "stop execution", "exec_1", work);
        drop(change.with_subscriber(subscriber.finish()).await);
        let text = log.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn every_change_that_is_asked_for_is_a_line_with_its_object_and_outcome() {
        for (role, result, object, outcome) in [
            (Role::Owner, Ok("exec_2"), "exec_2", "done"),
            (Role::Operator, Err(ProblemCode::NotFound), "exec_1", "not_found"),
            (Role::Viewer, Ok("exec_2"), "exec_1", "forbidden"),
        ] {
            let line = audited(role, result).await;

            assert_eq!(line.lines().count(), 1, "{line}");
            for part in ["eve", role.as_str(), "stop execution", object, outcome, "audit"] {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
    }
}
