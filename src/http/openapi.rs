//! `GET /openapi.json`: the API's description, made from the code.

use std::sync::OnceLock;

use rocket::fairing::AdHoc;
use rocket::http::ContentType;
use rocket::{get, routes};
use serde_json::json;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::schema::{Schema, SchemaType};
use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder,
    Type,
};
use utoipa::{Modify, OpenApi, ToSchema};

use super::error::{Code, MEDIA_TYPE, Offence};
use super::{
    analytics, dashboard, dead_letters, docs, events, health, ingest, metrics, queues, quota,
    results, stats, status,
};

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("openapi", |rocket| async {
        rocket.mount("/", routes![openapi])
    })
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tollgate",
        description = "Accepts ids at any speed and lets them through at a steady one: \
            batches of three, the urgent ones first, one every interval.",
    ),
    paths(
        ingest::ingest, status::status, queues::queues, queues::ingestions, results::results,
        events::post_events, events::bulk, events::publish, events::page::page,
        events::page::event, events::stream::stream, events::erase, stats::stats, dead_letters::letters, dead_letters::letter,
        dead_letters::retry, dead_letters::discard,
        health::index, health::health, health::liveness, health::ready, metrics::metrics,
        analytics::active_users::dau, analytics::active_users::wau, analytics::active_users::mau,
        analytics::top::top_events, analytics::retention::retention, analytics::values::values,
        analytics::stream::stream,
        openapi, docs::docs, docs::script, docs::licence, dashboard::dashboard,
    ),
    components(schemas(ProblemDocument, status::Status<'static>, status::Moved<'static>)),
    tags(
        (name = "jobs", description = "Submit ids, and see what becomes of them."),
        (name = "events", description = "Push events, each accepted once, and read them back."),
        (name = "analytics", description = "Ask about events: exact, with late ones, in any time zone."),
        (name = "service", description = "Whether it works, and how it does."),
    ),
    modifiers(&Common),
)]
struct Document;

/// A problem (RFC 9457): the body of every answer with a status of 400 or more.
#[derive(ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "describes the answer for the OpenAPI document")]
struct ProblemDocument {
    /// `urn:tollgate:problem:` and the code.
    #[schema(example = "urn:tollgate:problem:not_found")]
    r#type: String,
    /// What kind of problem it is, in words.
    title: String,
    /// The HTTP status again.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// One sentence about this case, and what to do.
    detail: String,
    /// What kind of problem it is, for programs.
    code: String,
    /// The same as the header `X-Request-Id`.
    request_id: String,
    /// What is wrong with which value: the first 100.
    #[schema(max_items = 100)]
    errors: Option<Vec<Offence>>,
    /// How many there are, those not listed too.
    error_count: Option<u64>,
    /// The state of each part, from `/ready`.
    #[schema(value_type = Option<Object>)]
    components: Option<()>,
}

/// What every operation has in common, said once.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let counts = counts_for_the_quota(path);
            for operation in [&mut item.get, &mut item.post, &mut item.delete]
                .into_iter()
                .flatten()
            {
                if counts {
                    may_be_limited(operation);
                }
                complete(operation, counts);
            }
        }
        let codes = Code::ALL.map(|code| json!(code.row().1));
        let problem = document
            .components
            .as_mut()
            .and_then(|components| components.schemas.get_mut("Problem"));
        if let Some(RefOr::T(utoipa::openapi::Schema::Object(problem))) = problem
            && let Some(code) = problem.properties.get_mut("code")
        {
            let schema = ObjectBuilder::new()
                .schema_type(Type::String)
                .description(Some("What kind of problem it is, for programs."))
                .enum_values(Some(codes));
            *code = RefOr::T(schema.into());
        }
    }
}

/// Whether requests for this path are counted; those for the metrics only with parameters.
fn counts_for_the_quota(path: &str) -> bool {
    !quota::FREE.into_iter().any(|free| {
        let below = path.strip_prefix(free);
        below.is_some_and(|rest| rest.is_empty() || (free != "/" && rest.starts_with('/')))
    })
}

/// Adds the answer to a client that makes too many requests.
fn may_be_limited(operation: &mut Operation) {
    const LIMITED: &str = "`rate_limited`: this client makes more requests than it may.";
    let responses = &mut operation.responses.responses;
    if let Some(RefOr::T(response)) = responses.get_mut("429") {
        response.description = format!("{} Or {LIMITED}", response.description);
    } else {
        let response = ResponseBuilder::new().description(LIMITED).build();
        responses.insert("429".to_owned(), RefOr::T(response));
    }
}

/// Adds what the framework may answer anywhere, and to each answer its headers and its body.
/// `counts` says that the answers tell of the quota.
fn complete(operation: &mut Operation, counts: bool) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            never_null(parameter);
        }
    }
    let responses = &mut operation.responses.responses;
    responses.entry("500".to_owned()).or_insert_with(|| {
        let response = ResponseBuilder::new().description("`internal`: an error in the service.");
        RefOr::T(response.build())
    });
    for (status, response) in responses {
        let RefOr::T(response) = response else {
            continue;
        };
        let header = |description: &str| -> RefOr<Header> {
            HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
                .description(Some(description))
                .build()
                .into()
        };
        response.headers.insert(
            "X-Request-Id".to_owned(),
            header("The client's, if it is 1 to 128 visible ASCII characters, else a new one."),
        );
        if matches!(status.as_str(), "409" | "429" | "503") {
            response.headers.insert(
                "Retry-After".to_owned(),
                header("Seconds after which it is worth trying again."),
            );
        }
        let text = if status == "429" {
            "draft-ietf-httpapi-ratelimit-headers: the bound that was hit."
        } else {
            "draft-ietf-httpapi-ratelimit-headers: the client's quota, if it has one."
        };
        if status == "429" || counts {
            for name in ["RateLimit", "RateLimit-Policy"] {
                response.headers.insert(name.to_owned(), header(text));
            }
        }
        if status.as_str() >= "400" {
            describe_problem(status, response);
        }
    }
}

/// A parameter may be absent, but not null, which a URL and a header can't say.
fn never_null(parameter: &mut Parameter) {
    if let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
        && let SchemaType::Array(types) = &schema.schema_type
        && let Some(only) = types.iter().find(|r#type| **r#type != Type::Null)
    {
        schema.schema_type = SchemaType::Type(only.clone());
    }
}

/// The body of a problem, with an example for the first code that its description names.
fn describe_problem(status: &str, response: &mut Response) {
    let named = response
        .description
        .split('`')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let (_, _, title) = Code::ALL
        .map(Code::row)
        .into_iter()
        .find(|(_, code, _)| *code == named)
        .unwrap_or((0, "", ""));
    let example = ExampleBuilder::new()
        .value(Some(json!({
            "type": format!("urn:tollgate:problem:{named}"),
            "title": title,
            "status": status.parse::<u16>().unwrap_or_default(),
            "detail": sentence(&response.description),
            "code": named,
            "request_id": "7f1f3c52-5a0e-4a55-9a2c-0d5c7f1c2e11",
        })))
        .build();
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        // In the plural: the page at `/docs` leaves out a single one.
        .examples_from_iter([(title, example)])
        .build();
    response
        .content
        .insert(MEDIA_TYPE.to_owned(), content.into());
}

/// What stands after the code in a description, as a sentence.
fn sentence(description: &str) -> String {
    let said = description
        .split_once(": ")
        .map_or(description, |(_, said)| said);
    let mut characters = said.chars();
    let first = characters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(characters).collect()
}

/// The document as JSON text; made once.
#[must_use]
pub fn document() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        Document::openapi()
            .to_pretty_json()
            .unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
    })
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
#[get("/openapi.json")]
pub(super) fn openapi() -> (ContentType, &'static str) {
    (ContentType::JSON, document())
}
