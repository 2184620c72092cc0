//! Streams one answer: cargo run -q -- "Once upon a time"

use std::env::{args, var};
use std::error::Error;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt;

// The generated modules refer to each other by their packages.
#[allow(dead_code)] // not every message is used here
mod mlxmesh {
    pub mod common {
        pub mod v1 {
            tonic::include_proto!("mlxmesh.common.v1");
        }
    }
    pub mod generation {
        pub mod v1 {
            tonic::include_proto!("mlxmesh.generation.v1");
        }
    }
}

use mlxmesh::common::v1::Sampling;
use mlxmesh::generation::v1::generate_request::Input;
use mlxmesh::generation::v1::generate_response::Event;
use mlxmesh::generation::v1::generation_service_client::GenerationServiceClient;
use mlxmesh::generation::v1::{GenerateRequest, GenerateResponse};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", explain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let prompt = args().nth(1).unwrap_or("Once upon a time".into());
    let max_characters = args().nth(2).map_or(Ok(usize::MAX), |text| text.parse())?;
    let address = var("MLXMESH_ADDRESS").unwrap_or("localhost:50051".into());
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect()
        .await?;

    let mut request = Request::new(GenerateRequest {
        model: var("MLXMESH_EXAMPLE_MODEL").unwrap_or("pocket".into()),
        input: Some(Input::Prompt(prompt)),
        max_tokens: Some(60),
        sampling: Some(Sampling {
            temperature: Some(0.7),
            ..Default::default()
        }),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(60));
    let stream = GenerationServiceClient::new(channel)
        .generate(request)
        .await?
        .into_inner();
    show(stream, max_characters).await?;
    Ok(())
}

/// Prints the text as it comes; after so many characters it returns, and dropping the stream
/// cancels the call.
async fn show(
    mut stream: Streaming<GenerateResponse>,
    max_characters: usize,
) -> Result<(), Status> {
    let mut characters = 0;
    while let Some(message) = stream.message().await? {
        match message.event {
            Some(Event::Delta(delta)) => {
                print!("{}", delta.text);
                stdout().flush().ok();
                characters += delta.text.chars().count();
            }
            Some(Event::Finished(finished)) => {
                let usage = finished.usage.unwrap_or_default();
                println!(
                    "\n[{} tokens in, {} out]",
                    usage.prompt_tokens, usage.completion_tokens
                );
                return Ok(());
            }
            _ => {}
        }
        if characters >= max_characters {
            println!("\n[cancelled]");
            return Ok(());
        }
    }
    Ok(())
}

/// Puts the stable reason, which programs should go by, before the text for people.
fn explain(error: &(dyn Error + 'static)) -> String {
    let Some(status) = error.downcast_ref::<Status>() else {
        return error.to_string();
    };
    match status.get_details_error_info() {
        Some(info) => format!("{}: {}", info.reason, status.message()),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}
