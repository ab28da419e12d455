//! One question to a DNS server, over TCP so that it can travel through SSH (RFC 1035).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ID: u16 = 0x6b64;
const RECURSION_DESIRED: u16 = 0x0100;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
/// QR, and the response code's four bits (RFC 1035, section 4.1.1).
const IS_ANSWER: u16 = 0x8000;
const RESPONSE_CODE: u16 = 0x000f;
const HEADER: usize = 12;

/// Asks for an IPv4 address of `name`. `Ok` when there is one.
pub async fn ask(server: SocketAddr, name: &str) -> Result<(), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let question = question(name);
        let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
        stream.write_all(&[&length.to_be_bytes()[..], &question].concat()).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    read(&exchange.await.map_err(|error| error.to_string())?)
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Vec::new();
    for field in [ID, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    for label in name.split('.').filter(|label| !label.is_empty()) {
        // Labels are at most 63 octets long; kdiy's own names are.
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(TYPE_A.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// Whether an answer holds an address, or why not.
pub fn read(answer: &[u8]) -> Result<(), String> {
    let field = |number: usize| {
        let bytes = answer.get(number * 2..number * 2 + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let (Some(id), Some(flags), Some(answers)) = (field(0), field(1), field(3)) else {
        return Err(format!("{} bytes are too short for a DNS header of {HEADER}", answer.len()));
    };
    match (flags & RESPONSE_CODE, answers) {
        _ if id != ID || flags & IS_ANSWER == 0 => {
            Err("the server sent something other than an answer".into())
        }
        (0, 0) => Err("the name has no address".into()),
        (0, _) => Ok(()),
        (2, _) => Err("the server failed (SERVFAIL)".into()),
        (3, _) => Err("the name does not exist (NXDOMAIN)".into()),
        (code, _) => Err(format!("response code {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(flags: u16, answers: u16) -> Vec<u8> {
        [ID, flags, 1, answers, 0, 0].iter().flat_map(|field| field.to_be_bytes()).collect()
    }

    #[test]
    fn a_question_is_as_the_standard_has_it() {
        let message = question("kubernetes.default.");
        assert_eq!(&message[..HEADER], [0x6b, 0x64, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&message[HEADER..], b"\x0akubernetes\x07default\0\0\x01\0\x01");
    }

    #[test]
    fn only_an_answer_with_an_address_is_one() {
        assert_eq!(read(&answer(0x8180, 1)), Ok(()));
        assert!(read(&answer(0x8180, 0)).unwrap_err().contains("no address"));
        assert!(read(&answer(0x8183, 0)).unwrap_err().contains("NXDOMAIN"));
        assert!(read(&answer(0x0100, 1)).is_err(), "the question itself");
        assert!(read(&[0; 5]).is_err());
    }

    #[tokio::test]
    async fn an_answer_travels_over_tcp() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut asked = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut asked).await.unwrap();
            let answer = answer(0x8180, 1);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        });
        assert_eq!(ask(address, "kubernetes.default").await, Ok(()));
    }
}
