//! The stream and its consumer: made, or found as they should be.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, Context};
use thiserror::Error;

use super::SUBJECT;
use crate::bus::codec::{MAX_MESSAGE, MIN_MESSAGE};
use crate::model::bus::BusSettings;

/// The stream.
const STREAM: &str = "TOLLGATE_EVENTS";

/// The consumer that all nodes share.
const CONSUMER: &str = "tollgate";

/// After which time without a sign a message is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(20);

/// The most messages that are delivered and not acknowledged, on all nodes.
const MAX_ACK_PENDING: i64 = 10_000;

/// What a server says to everything while its cluster has no leader.
const UNAVAILABLE: usize = 503;

/// Why stream and consumer are not there.
#[derive(Debug, Error)]
pub(super) enum SetupError {
    /// It may go better the next time.
    #[error("{0}")]
    Passing(String),
    /// Somebody has to change something: a sentence for the operator.
    #[error("{0}")]
    Refused(String),
}

impl SetupError {
    fn of(error: &jetstream::Error) -> Self {
        if error.code() == UNAVAILABLE {
            Self::Passing(error.to_string())
        } else {
            Self::Refused(format!("NATS refuses the stream {STREAM}: {error}"))
        }
    }
}

/// Makes or checks both.
pub(super) async fn stream_and_consumer(
    jetstream: &Context,
    settings: &BusSettings,
    max_payload: usize,
) -> Result<PullConsumer, SetupError> {
    if max_payload < MIN_MESSAGE {
        return Err(SetupError::Refused(format!(
            "the NATS server's max_payload is {max_payload} bytes; tollgate needs {MIN_MESSAGE}"
        )));
    }
    stream(jetstream, settings).await?;
    let config = pull::Config {
        durable_name: Some(CONSUMER.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        // For ever; see the page of `nats`.
        max_deliver: -1,
        ..pull::Config::default()
    };
    let made = jetstream.create_consumer_on_stream(config, STREAM).await;
    made.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(error) => SetupError::of(&error),
        _ => SetupError::Passing(error.to_string()),
    })
}

async fn stream(jetstream: &Context, settings: &BusSettings) -> Result<(), SetupError> {
    let wanted = stream_config(settings);
    let refuse = |error: async_nats::jetstream::context::CreateStreamError| match error.kind() {
        CreateStreamErrorKind::JetStream(error) => SetupError::of(&error),
        _ => SetupError::Passing(error.to_string()),
    };
    let stream = jetstream
        .get_or_create_stream(wanted.clone())
        .await
        .map_err(refuse)?;
    let found = &stream.cached_info().config;
    if found.retention != wanted.retention
        || found.storage != wanted.storage
        || found.subjects != wanted.subjects
    {
        return Err(SetupError::Refused(format!(
            "the NATS stream {STREAM} is there and is no work queue on files for {SUBJECT}: \
             remove it, or give tollgate a NATS account of its own"
        )));
    }
    if found.max_bytes != wanted.max_bytes
        || found.num_replicas != wanted.num_replicas
        || found.max_message_size != wanted.max_message_size
        || found.discard != wanted.discard
    {
        jetstream.update_stream(&wanted).await.map_err(refuse)?;
    }
    Ok(())
}

/// How many messages the stream has, and the place of the first.
pub(super) async fn stream_state(jetstream: &Context) -> Result<(u64, u64), SetupError> {
    let stream = jetstream.get_stream(STREAM).await;
    let stream = stream.map_err(|error| SetupError::Passing(error.to_string()))?;
    let state = &stream.cached_info().state;
    Ok((state.messages, state.first_sequence))
}

fn stream_config(settings: &BusSettings) -> Config {
    Config {
        name: STREAM.to_owned(),
        description: Some("Events that wait to be committed by tollgate".to_owned()),
        subjects: vec![SUBJECT.to_owned()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_bytes: i64::try_from(settings.max_bytes).unwrap_or(i64::MAX),
        // Those of others that write here must not be too long to be fetched.
        max_message_size: i32::try_from(MAX_MESSAGE).unwrap_or(i32::MAX),
        num_replicas: settings.replicas,
        ..Config::default()
    }
}
