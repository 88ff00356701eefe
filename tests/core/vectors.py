"""Known answers of the wire formats: leaves are `record-0`, `record-1`, ..., the log's seed is bytes 00..1f, the witness' 32 times 42."""

import base64

V1_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "45c7bdcd45db42b418f7c42663fbeb464c9f0a88980cbc31fdddd29d24f724ee",
    "d075b56a4adef62530a52839802802da518a21b5d0bf35eb05fea2b295a855fa",
    "d6a93c4b91bf4b5be4fae77b5be1439df69e7c7c38007eb704c299cd0e1057b1",
    "089f04182e8dcba54af7c39dd1c7d07cf6ff1a15bcb5784b236b4e9e85178dfa",
    "be86a57ed4ff3ab4bdeac05994ad169ef3a431e8991ed51f7c143b4d9f2f478e",
    "167ab22f16e64441b876c6d674bb36782d78178a5b5f44fb937110b8908fd996",
    "ac49bffc2e4b5dc0e6a0fc76b80860d2c23955b84d453db541134372e2c5a91f",
    "cec12395a3f3d7cc4d19a469f03b41f0a15b3a3167728474ab07bd4955a088b3",
]
V2_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
V2_ROOT_OF_8 = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
V3_INCLUSION = {
    (3, 7): [
        "nODOESJgQeAhD3SsmUYC5alNbpN+Lk/pJGYJQTeEXiQ=",
        "0HW1akre9iUwpSg5gCgC2lGKIbXQvzXrBf6ispWoVfo=",
        "BEurWI0EFW7psYo+fvXnstZto9K0bwuB7U5/La8L+EI=",
    ],
    (6, 7): ["2TenwlpMTN7aVGPUmA+4iOkC9do+mRkTPnzy1P7LDRU=", "CJ8EGC6Ny6VK98Od0cfQfPb/GhW8tXhLI2tOnoUXjfo="],
    (5, 8): [
        "vGiQs/2wbCR8/MaLhZuhdKp28QqazWVvJ/gYxoTCXZY=",
        "4BGiJAxATuh3k+k4CZR4fieilaWTkuNbbQi+T7K06no=",
        "CJ8EGC6Ny6VK98Od0cfQfPb/GhW8tXhLI2tOnoUXjfo=",
    ],
    (256, 257): ["JMGYQ+qaxwtzTqSR5QBkZ3JDBFI3Y8g8qyinp13Z1Xw="],
}
V4_CONSISTENCY = {
    (3, 7): [
        "nODOESJgQeAhD3SsmUYC5alNbpN+Lk/pJGYJQTeEXiQ=",
        "NVPi/UuHnPX0yqSSFI3qD7RSgHNEsRTuoYGZ/4vueOU=",
        "0HW1akre9iUwpSg5gCgC2lGKIbXQvzXrBf6ispWoVfo=",
        "BEurWI0EFW7psYo+fvXnstZto9K0bwuB7U5/La8L+EI=",
    ],
    (4, 7): ["BEurWI0EFW7psYo+fvXnstZto9K0bwuB7U5/La8L+EI="],
    (7, 7): [],
    (256, 300): ["SfepRFyWFLOtnqPdVPgLTkEWygkkKioP/ieC1mNbKLg="],
    (1, 7): [
        "DSWgcjMCbp352aiCRUjTlTMnELKX/iRfweLOWhTVP2k=",
        "10cnOoAvMNJA8fhDkg82YaQbmjky81gZdGya9qnd+dg=",
        "BEurWI0EFW7psYo+fvXnstZto9K0bwuB7U5/La8L+EI=",
    ],
    (7, 300): [
        "V2v+WjPnQrY/fAMS1q4OZixlJcviOrvLcNKcBTy2GiQ=",
        "uvds59KjlAYbq2wJd7ZkRaHVqb+d12//rRPOo/KRh1A=",
        "2TenwlpMTN7aVGPUmA+4iOkC9do+mRkTPnzy1P7LDRU=",
        "CJ8EGC6Ny6VK98Od0cfQfPb/GhW8tXhLI2tOnoUXjfo=",
        "XUo/5DiJnhBMXIimxfHazGnB0DjABg4XFHTMrHOW9xM=",
        "6/YZvLBxCXVMeIZiRLAT3LLqgibSHqzaSKFtBR9moyY=",
        "NDSBUamjHP0cge8w2fydNZR78zZ0bTtve/Yvf62HbE4=",
        "MVNWXUxBdr4llUWlGuyQIBupnnY4I0jSBikBAxQ79Ws=",
        "rCFHegDRaaP8kd09v6yc3hAQv2VkL4wj3F4GAOZl8gI=",
        "SfepRFyWFLOtnqPdVPgLTkEWygkkKioP/ieC1mNbKLg=",
    ],
}
V5_LOG_VKEY = "audit.example.com/log1+cf18fe2a+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
V5_LOG_SKEY = "PRIVATE+KEY+audit.example.com/log1+cf18fe2a+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
V5_CHECKPOINTS = {
    0: (
        "audit.example.com/log1\n"
        "0\n"
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
        "\n"
        "— audit.example.com/log1 zxj+Ks/0lLSJrTvC/JqQErI5IxsL0GfEZKZffpeHTzfg8clnrCNJLPVURTBwxTs2Ssc0gi/VbC62uqA3W3H5Zi+BMAA=\n"
    ),
    1: (
        "audit.example.com/log1\n"
        "1\n"
        "Rce9zUXbQrQY98QmY/vrRkyfCoiYDLwx/d3SnST3JO4=\n"
        "\n"
        "— audit.example.com/log1 zxj+Kt4uj1PMfebno0BsaEMLqqHNXg6hzFqoZL89QJNVLWE1h+VfOj+rnhTtINzQhuVsHmnQ7OTp3bV8wS0E3r5XEQg=\n"
    ),
    7: (
        "audit.example.com/log1\n"
        "7\n"
        "rEm//C5LXcDmoPx2uAhg0sI5VbhNRT21QRNDcuLFqR8=\n"
        "\n"
        "— audit.example.com/log1 zxj+KjlaOYm+Wr+fhhTCRvWMU6bfr+w/AZL9U7SzZcEAkMOIapbRfhnwu/BGJyPBxSVTbC7QKtDMdzZ8+MM7ABhK3wk=\n"
    ),
    300: (
        "audit.example.com/log1\n"
        "300\n"
        "9m+3nThnj9A0IXlahX3h4TXri/Ol+XN+m6P2p2elZcs=\n"
        "\n"
        "— audit.example.com/log1 zxj+KkDPyZZYq9VdDq5MtqlL/s+wWY5C6R3VATd4Z1gnSKYyob+zkzgSFriiqQ4PlU6fdIuHR2t4CWGEel3vF/Xz1AI=\n"
    ),
}
V6_FILES = {
    "tile/0/000": (8192, "4ee8edf2d081618d50842ed8915a1034facc543149f51ceff4f755a4b66cc74d"),
    "tile/0/001.p/44": (1408, "246455903a0784794185892d486ad76a9e02f663092b4c6cae12ddb87eaac113"),
    "tile/1/000.p/1": (32, "0bbd0a0bf60faa606473c550caeaf4d34a6a405a28cdcc1acd7f332122380f7d"),
    "tile/entries/000": (2962, "d9efd3a085a64d795ee76e6ab0c5477e20ac4137bc88e05b5021a990523226be"),
    "tile/entries/001.p/44": (528, "83022c59b86172b2ae4a4d50adcfd6ebbf320a0e7134f64950dc39f6f0747bdc"),
}
V7_WITNESS_VKEY = "witness.example.com/w1+886a0481+BCFS+NGbeR0kRTJC4V8uq2y3z/p7al7TAJeWDgaYgdsS"
V7_TIME_S = 1795478400
V7_LINE = "— witness.example.com/w1 iGoEgQAAAABrBNOAdFw6CwXbvtFxM+3ah+QHOQ8jaHqfggO6doopEnzjdHKBxXU8v4s2OzNeR+NRqjnSe9MJbL1kYQNQWa+3HwpyAg=="
V8_PUBLIC_KEY_SHA256 = "9f107644c1084526af3bc8098680b05499a2325a644e388fb4f970e058d19d46"
V8_KEY_ID = "25e477c5"
V8_MESSAGE = (
    "737562747265652f76310a001661756469742e6578616d706c652e636f6d2f6c6f6731000000"
    "006b04d3801661756469742e6578616d706c652e636f6d2f6c6f673100000000000000000000"
    "00000000012cf66fb79d38678fd03421795a857de1e135eb8bf3a5f9737e9ba3f6a767a565cb"
)
V8_MESSAGE_SHA256 = "3bdf8cb35fbce6eb803a3f647fda7d0bf1427b91a92ebfd1c995a792556ff9d8"
V9_PATH = [
    "6azrc9D05+ogzq/ucNBnDbhY6fzW5GV3QI/vN2jkKnw=",
    "ZihHVJvBxjG5rKIryn3jk53O1PFqUtpNPhapNYDUlnE=",
    "5l5aFbfrYFHf7FJxm4QsLlk+VBPVtqU8+F1TPS1at6k=",
    "CgwvxaCas18dLO3h3NOfSd1CNXGY9UWQNCOTr53RzcM=",
    "32ACCIHkkSuwP/fL6JTqwMKiyIx2+OfvQnRxtTV5HwU=",
    "4lQx/3596+bMCzESPcw1MtpxM3MQmYZ2nItMCuDKvnY=",
    "/UdhR5jbqGd0wJEpmjZlvl9tSlzHK6g9EofYlhgGEMU=",
    "rCFHegDRaaP8kd09v6yc3hAQv2VkL4wj3F4GAOZl8gI=",
    "SfepRFyWFLOtnqPdVPgLTkEWygkkKioP/ieC1mNbKLg=",
]
V9_FILE_SHA256 = "f9a4d0e5613e8d43996a65dc03e94b2aa140aa829ac71b9de2fd451daafd3e58"
V9_LEAF_HASH = "7ac4391990280fa326ac3126075a0434fb1aa47620c0614fb67546d5689894be"
V11_BODY = b'{"messages":[{"role":"user","content":"hi"}]}'
V11_COMMITMENT = "779906e77b8d912e073dfcdc68e70d0a0856ca08c1f76eddceae5ecf459f0483"
LOG_SEED = bytes(range(32))
WITNESS_SEED = b"\x42" * 32
ORIGIN = "audit.example.com/log1"


def records(count):
    return [b"record-%d" % index for index in range(count)]


def unbase64(texts):
    return [base64.b64decode(text) for text in texts]


def all_changes(data):
    """Every change of one byte by its lowest bit, its case bit and its highest, and every truncation."""
    for at in range(len(data)):
        for bit in (0x01, 0x20, 0x80):
            yield data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        yield data[:at]
