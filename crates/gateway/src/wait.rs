//! `Prefer: wait=N` (RFC 7240): the terminal object instead of the 202, if it comes in time.

use std::time::Duration;

use actix_web::HttpRequest;
use domain::{ExecutionId, Sequence};
use protocol::{
    identity::Principal,
    read::{ExecutionView, Subject},
};

use crate::{executions, service::Gateway};

/// The longest wait in seconds.
const AT_MOST: u64 = 60;

/// How long the client prefers to wait; what cannot be read is no preference.
pub(crate) fn preferred(request: &HttpRequest) -> Option<Duration> {
    let values = request.headers().get_all("prefer").filter_map(|value| value.to_str().ok());
    let seconds = values.flat_map(|value| value.split(',')).find_map(seconds)?;
    (seconds > 0).then(|| Duration::from_secs(seconds.min(AT_MOST)))
}

/// The seconds of one preference, if it is this one. Names are case-insensitive; parameters are ignored.
fn seconds(preference: &str) -> Option<u64> {
    let (name, value) = preference.split(';').next()?.split_once('=')?;
    let value = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("wait").then(|| value.parse().ok()).flatten()
}

/// Waits on the event stream for the end. The execution is accepted: whatever fails from now on, and the end of this gateway,
/// is answered with the 202.
pub(crate) async fn for_end(
    gateway: &Gateway,
    caller: &Principal,
    id: ExecutionId,
    wait: Duration,
) -> Option<ExecutionView> {
    let subject = Subject { user_id: Some(caller.user_id), user_engine_id: caller.user_engine_id, execution_id: id };
    let mut stream = gateway.hub.subscribe(subject, Sequence::START, Sequence::START);
    let ended = async {
        loop {
            let events = stream.next().await.ok()?;
            if events.iter().any(|event| event.is_terminal()) {
                return executions::read(gateway, caller, id).await.ok();
            }
            if events.is_empty() {
                return None;
            }
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(wait, ended) => ended.ok().flatten().filter(|view| view.state.is_terminal()),
        () = gateway.shutdown.drain.cancelled() => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_preference_is_read_however_it_is_written() {
        let preferred =
            |value: &str| preferred(&TestRequest::default().insert_header(("prefer", value)).to_http_request());

        for value in ["wait=5", "Wait=5", "respond-async, WAIT = \"5\"", "wait=5; foo=bar"] {
            assert_eq!(preferred(value), Some(Duration::from_secs(5)), "{value}");
        }
        assert_eq!(preferred("wait=500"), Some(Duration::from_secs(60)));
        for value in ["wait=0", "wait", "wait=soon", "await=5"] {
            assert_eq!(preferred(value), None, "{value}");
        }
    }
}
