//! A recorded host for `postrail doctor --root`: a tree of small files, unpacked from one text.
//!
//! The text is blocks, each a line `== PATH` and the content of that file. `{0-31}` in a path makes a file for each
//! number, `{}` in its content is that number. So a host of many CPUs and queues stays readable in one page.

use std::path::{Path, PathBuf};

use crate::place::{Place, root};

/// Unpacks `tests/hosts/NAME.txt` into a folder of the story, and gives the folder.
pub fn unpack(place: &Place, name: &str) -> PathBuf {
    let text = std::fs::read_to_string(root().join(format!("tests/hosts/{name}.txt"))).expect("a recorded host");
    let folder = place.join(name);
    let mut blocks = text.split("== ");
    // What stands before the first block says what the host is.
    blocks.next();
    for block in blocks {
        let (path, content) = block.split_once('\n').expect("a block is a path and its content");
        match range(path) {
            None => write(&folder.join(path), content),
            Some((before, (first, last), after)) => {
                for number in first..=last {
                    let path = folder.join(format!("{before}{number}{after}"));
                    write(&path, &content.replace("{}", &number.to_string()));
                }
            }
        }
    }
    folder
}

/// `cpu{0-3}/x` as `cpu`, 0 and 3, `/x`.
fn range(path: &str) -> Option<(&str, (u32, u32), &str)> {
    let (before, rest) = path.split_once('{')?;
    let (numbers, after) = rest.split_once('}')?;
    let (first, last) = numbers.split_once('-')?;
    Some((before, (first.parse().ok()?, last.parse().ok()?), after))
}

fn write(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().expect("a file of the tree")).expect("a folder can be made");
    std::fs::write(path, content).expect("a file can be written");
}
