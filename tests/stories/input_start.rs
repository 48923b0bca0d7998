//! A host where Postrail cannot start: exit status 2, one sentence that says what to do, and nothing is touched.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use postrail_tests::child::try_run;
use postrail_tests::clients::python_program;
use postrail_tests::place::{Place, free_address};
use postrail_tests::postrail::binary;
use postrail_tests::scene::Scene;

/// The arguments of `up` on free ports.
fn up(data: &Path) -> Vec<String> {
    let mut arguments = vec!["up".to_owned(), "--data".to_owned(), data.display().to_string()];
    for option in ["--smtp", "--smtps", "--rest", "--api", "--admin"] {
        arguments.extend([option.to_owned(), free_address().to_string()]);
    }
    arguments.extend(["--hostname", "mail.sender.test", "--shards", "1"].map(str::to_owned));
    arguments
}

/// Panics unless the command ends with status 2 and one line that has all of `words`.
fn refused(command: &mut Command, words: &[&str]) {
    let (status, text) = try_run(Command::new("timeout").arg("20").arg(command.get_program()).args(command.get_args()));
    assert_eq!(status.code(), Some(2), "{command:?}: {text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("postrail: ")).collect();
    assert_eq!(lines.len(), 1, "one sentence: {text}");
    for word in words {
        assert!(lines[0].contains(word), "{word} is in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_port_in_use_is_named_with_its_option() {
    let place = Place::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for option in ["--smtp", "--smtps", "--rest", "--api", "--admin"] {
        let mut arguments = up(&place.join("data"));
        let at = arguments.iter().position(|argument| argument == option).expect("the option is there");
        arguments[at + 1].clone_from(&address);
        refused(Command::new(binary()).args(arguments), &[&address, option, "in use"]);
    }
    let mut arguments = up(&place.join("data"));
    arguments.extend(["--smtp".to_owned(), "192.0.2.1:2525".to_owned()]);
    refused(Command::new(binary()).args(arguments), &["192.0.2.1:2525", "no address of this host"]);
}

#[test]
fn a_folder_that_is_not_ours_to_use_is_left_alone() {
    let place = Place::new("folder");
    let start = |data: &Path, words: &[&str]| refused(Command::new(binary()).args(up(data)), words);

    let newer = place.join("newer");
    std::fs::create_dir(&newer).expect("made");
    std::fs::write(newer.join("VERSION"), "99\n").expect("written");
    start(&newer, &["layout 99", "newer Postrail"]);
    assert_eq!(std::fs::read_to_string(newer.join("VERSION")).expect("readable"), "99\n");

    let damaged = place.join("damaged");
    std::fs::create_dir(&damaged).expect("made");
    std::fs::write(damaged.join("VERSION"), "\u{0}?").expect("written");
    start(&damaged, &["VERSION is damaged"]);

    let foreign = place.join("foreign");
    std::fs::create_dir(&foreign).expect("made");
    std::fs::write(foreign.join("letter.txt"), "dear").expect("written");
    start(&foreign, &["no data folder of Postrail"]);
    assert_eq!(std::fs::read_dir(&foreign).expect("readable").count(), 1, "nothing is written");

    let file = place.join("file");
    std::fs::write(&file, "x").expect("written");
    start(&file, &["cannot use the data folder"]);
}

#[test]
fn a_folder_has_one_owner() {
    let mut scene = Scene::new("owner");
    let pid = scene.postrail.child().id().to_string();
    refused(Command::new(binary()).args(up(scene.postrail.data())), &["in use by process", &pid]);
    let (status, answer) = scene.postrail.submit(&scene.job(&["a@receiver.test"]));
    assert_eq!(status, 202, "the owner goes on: {answer}");
    scene.receiver.wait_for(1);
}

#[test]
fn options_that_would_be_unsafe_are_refused() {
    let place = Place::new("unsafe");
    for (option, value, word) in
        [("--rest", "0.0.0.0:0", "--tls-cert"), ("--api", "0.0.0.0:0", "loopback"), ("--admin", "[::]:0", "loopback")]
    {
        let mut arguments = up(&place.join("data"));
        arguments.retain(|argument| argument != option);
        arguments.truncate(3);
        arguments.extend([option, value].map(str::to_owned));
        refused(Command::new(binary()).args(arguments), &[option, word]);
    }
    let mut arguments = up(&place.join("data"));
    arguments.extend(["--tls-cert", "/nonexistent.pem", "--tls-key", "/nonexistent.key"].map(str::to_owned));
    refused(Command::new(binary()).args(arguments), &["/nonexistent"]);
}

/// A copy of the binary and a folder that a user without privileges may use.
fn unprivileged(place: &Place) -> (String, std::path::PathBuf) {
    let program = place.join("postrail");
    std::fs::copy(binary(), &program).expect("copied");
    for path in [place.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("changed");
    }
    let data = place.join("data");
    std::fs::create_dir(&data).expect("made");
    std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).expect("changed");
    (program.display().to_string(), data)
}

#[test]
fn too_little_lockable_memory_is_told() {
    let place = Place::new("memlock");
    let (program, data) = unprivileged(&place);
    let mut command = Command::new("prlimit");
    let nobody = NOBODY.to_string();
    command.args(["--memlock=65536:65536", "setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
    command.args(["--inh-caps=-all", "--bounding-set=-all", &program]);
    refused(command.args(up(&data)), &["65536 octets of memory may be locked", "ulimit -l"]);
}

#[test]
fn a_kernel_without_io_uring_is_told() {
    let place = Place::new("io-uring");
    for (errno, name) in [("1", "EPERM"), ("38", "ENOSYS")] {
        let mut command = Command::new(python_program("python"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/stories/clients/without_io_uring.py");
        command.args([script, errno, &binary().display().to_string()]);
        refused(command.args(up(&place.join(name))), &["io_uring is refused by the kernel", "seccomp"]);
    }
}

/// The user id of `nobody`.
const NOBODY: u32 = 65_534;
