//! `holm image`.

use clap::Subcommand;
use std::path::PathBuf;

/// What is done with guest images.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Every image that is known: which of them new root disks are made over, and where it is
    List,
    /// One image, and what is installed in it
    #[command(
        after_help = "Advisories are Debian's: the file is https://security-tracker.debian.org/tracker/data/json, fetched by who can \
        reach it. What it says to be open, or mended in a later version, of a package in the image is shown; without a file nothing \
        is known of advisories.\n\n  holm image show --packages\n  holm image show 9f86d081 --advisories tracker.json"
    )]
    Show {
        /// 8 digits of its id or more; otherwise the one that new root disks are made over
        #[arg(default_value = "", hide_default_value = true)]
        id: String,
        /// Every package, with its version
        #[arg(long)]
        packages: bool,
        /// Debian's list of advisories, as JSON
        #[arg(long, value_name = "FILE")]
        advisories: Option<PathBuf>,
        /// Debian's release that it is made of, as the list calls it
        #[arg(long, value_name = "NAME", default_value = "trixie")]
        release: String,
    },
    /// Make a key to sign images with, in a new file; its public half goes into holmd.toml
    Keygen {
        /// The new file, for your eyes only
        file: PathBuf,
        /// Whose key it is, as in builder.example.org
        #[arg(long)]
        name: String,
    },
    /// Sign an image: writes manifest.sig beside its manifest
    Sign {
        /// The directory that `deploy/guest-image/build` made
        directory: PathBuf,
        /// The key's file, as `holm image keygen` made it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Whose key it is
        #[arg(long)]
        name: String,
    },
    /// Make a signed image known, for an operator. No slice gets it yet
    #[command(
        after_help = "holmd takes it when a key that its configuration trusts has signed its manifest: `signers` in [image] of \
        holmd.toml. The image itself goes to each host: copy the directory there, and: holm-agent image add DIR"
    )]
    Add {
        /// The directory, signed; its manifest and manifest.sig are enough
        directory: PathBuf,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Have every root disk that is made from now on made over an image, for a security officer who did not add it
    #[command(
        after_help = "What runs goes on over the image that it has. It gets this one, and keeps its data, when its lead stops it and \
        starts it with --rebuild; `holm slice show` tells her of it. A slice whose host does not have the image waits, and says so."
    )]
    Promote {
        /// 8 digits of its id or more
        id: String,
        /// What you looked at; it is in the log
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}
