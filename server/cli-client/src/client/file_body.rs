//! A request's body from a file, a part at a time.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Bytes that are read at a time.
const PART: usize = 256 << 10;

pub struct FileBody {
    file: File,
    left: u64,
}

impl FileBody {
    pub fn open(path: &Path) -> io::Result<FileBody> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        Ok(FileBody { file, left })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = Infallible;

    /// The program does nothing else meanwhile. A file that became shorter ends before the length that was promised,
    /// which the other side takes for a broken request.
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut part = vec![0; PART.min(usize::try_from(self.left).unwrap_or(PART))];
        match self.file.read(&mut part) {
            Ok(n @ 1..) => {
                part.truncate(n);
                self.left -= n as u64;
                Poll::Ready(Some(Ok(Frame::data(part.into()))))
            }
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
