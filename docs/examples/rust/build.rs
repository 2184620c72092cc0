//! Generates a client from the contracts of this checkout.

use std::error::Error;

const PROTOS: &str = "../../../protos";

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = tonic_prost_build::Config::new();
    config.protoc_executable(protoc_bin_vendored::protoc_bin_path()?);
    tonic_prost_build::configure()
        .build_server(false)
        .compile_with_config(
            config,
            &[format!("{PROTOS}/mlxmesh/generation/v1/generation.proto")],
            &[PROTOS.to_string()],
        )?;
    println!("cargo::rerun-if-changed={PROTOS}");
    Ok(())
}
