//! Generates the Rust code of `proto/holm/v1/*.proto` with protox: no `protoc` is needed to build.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let services = [
        "person", "project", "slice", "host", "audit", "agent", "keys", "backup", "policy", "lock", "review",
        "incident", "image",
    ];
    let files: Vec<String> = services.iter().map(|s| format!("proto/holm/v1/{s}.proto")).collect();
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure()
        // These two carry a key or an enrolment code; `src/lib.rs` gives them a Debug that shows neither.
        .skip_debug(["holm.v1.VolumeKey", "holm.v1.EnrolRequest"])
        // What SSH says is handed on as it came, not copied at each step.
        .bytes(".holm.v1.ConnectFrame.data")
        .bytes(".holm.v1.TunnelFrame.data")
        .compile_fds(descriptors)?;
    Ok(())
}
