"""Texts and what is in them. The values are published examples, or made up with a check digit that fits."""

from __future__ import annotations

Expected = list[tuple[str, bytes]]

PEM = (
    b"-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn\nygWyF8PbnGy0AHB7MhgHcTz6sE2I2yPB\n"
    b"-----END RSA PRIVATE KEY-----"
)
HASH = b"$2b$12$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"
JWT = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
GITHUB = b"ghp_" + b"a1B2c3D4e5F6" * 3

FOUND: list[tuple[bytes, Expected]] = [
    (b"card 4111 1111 1111 1111, next", [("card", b"4111 1111 1111 1111")]),
    (b"4111111111111111", [("card", b"4111111111111111")]),
    (b'{"pan":"5555-5555-5555-4444"}', [("card", b"5555-5555-5555-4444")]),
    (b"pan=378282246310005&x=1", [("card", b"378282246310005")]),
    (b"3782 822463 10005", [("card", b"3782 822463 10005")]),
    (b"a,6011000990139424,b", [("card", b"6011000990139424")]),
    (b"2223003122003222\n", [("card", b"2223003122003222")]),
    (b"mail alice@example.com!", [("email", b"alice@example.com")]),
    (b"<b.c+d_e@sub.example.co.uk>", [("email", b"b.c+d_e@sub.example.co.uk")]),
    (b"alice@example.com,bob@example.org", [("email", b"alice@example.com"), ("email", b"bob@example.org")]),
    (b"to DE89370400440532013000 now", [("iban", b"DE89370400440532013000")]),
    (b"GB82 WEST 1234 5698 7654 32", [("iban", b"GB82 WEST 1234 5698 7654 32")]),
    (b"fr1420041010050500013m02606", [("iban", b"fr1420041010050500013m02606")]),
    (b"ssn is 123-45-6789.", [("us-ssn", b"123-45-6789")]),
    (b'"ssn": "123456789"', [("us-ssn", b"123456789")]),
    (b"call +14155552671 now", [("phone", b"+14155552671")]),
    (b"call +44 20 7946 0958", [("phone", b"+44 20 7946 0958")]),
    (b"(415) 555-2671 or", [("phone", b"(415) 555-2671")]),
    (b"415-555-2671", [("phone", b"415-555-2671")]),
    (b'"phone": "0171 5551234"', [("phone", b"0171 5551234")]),
    (b"NIR 2 55 08 14 168 025 38", [("fr-nir", b"2 55 08 14 168 025 38")]),
    (b"cf RSSMRA85T10A562S.", [("it-codice-fiscale", b"RSSMRA85T10A562S")]),
    (b"dni 12345678Z, nie X1234567L", [("es-dni", b"12345678Z"), ("es-dni", b"X1234567L")]),
    (b"cpf 529.982.247-25", [("br-cpf", b"529.982.247-25")]),
    (b"Steuer-ID 86095742719", [("de-steuer-id", b"86095742719")]),
    (b"nino AB 12 34 56 C", [("uk-nino", b"AB 12 34 56 C")]),
    (b"NHS 943 476 5919", [("uk-nhs", b"943 476 5919")]),
    (b"aadhaar 2341 2341 2346", [("in-aadhaar", b"2341 2341 2346")]),
    (b"SIN 193-456-787", [("ca-sin", b"193-456-787")]),
    (b"ahv 756.9217.0769.85", [("ch-ahv", b"756.9217.0769.85")]),
    (b"born 811218-9876", [("se-personnummer", b"811218-9876")]),
    (b"hetu 131052-308T", [("fi-hetu", b"131052-308T")]),
    (b"rr 85.07.30-033.28", [("be-rijksregister", b"85.07.30-033.28")]),
    (b"BSN: 111222333", [("nl-bsn", b"111222333")]),
    (b"pesel 44051401359", [("pl-pesel", b"44051401359")]),
    (b"key AKIAIOSFODNN7EXAMPLE.", [("aws-access-key", b"AKIAIOSFODNN7EXAMPLE")]),
    (
        b"aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY9",
        [("secret-assignment", b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY9")],
    ),
    (b"key=AIzaSyA-1234567890abcdefghijklmnopqrstu&", [("gcp-api-key", b"AIzaSyA-1234567890abcdefghijklmnopqrstu")]),
    (b"x " + GITHUB + b" y", [("github-token", GITHUB)]),
    (b"glpat-ABCdef123456_7890xyz", [("gitlab-token", b"glpat-ABCdef123456_7890xyz")]),
    (b"xoxb-123456789012-abcdefABCDEF", [("slack-token", b"xoxb-123456789012-abcdefABCDEF")]),
    (b"sk_live_" + b"4eC39HqLyjWDarjtT1zdp7dc", [("stripe-key", b"sk_live_" + b"4eC39HqLyjWDarjtT1zdp7dc")]),
    (b"//r/:x=npm_" + b"aB3" * 12, [("npm-token", b"npm_" + b"aB3" * 12)]),
    (b"pypi-AgEIcHlwaS5vcmc" + b"Cd4-" * 12, [("pypi-token", b"pypi-AgEIcHlwaS5vcmc" + b"Cd4-" * 12)]),
    (b"t=" + JWT + b";", [("jwt", JWT)]),
    (PEM + b"\n", [("private-key", PEM)]),
    (b'{"k":"' + PEM.replace(b"\n", b"\\n") + b'"}', [("private-key", PEM.replace(b"\n", b"\\n"))]),
    (
        b"client-key-data: LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFcEFJQkFBS0NB\nx",
        [("private-key", b"LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFcEFJQkFBS0NB\nx")],
    ),
    (b"postgres://bob:s3cr3t@db:5432/shop", [("url-password", b"s3cr3t")]),
    (b"amqp://u:p@ss-w0rd@mq:5672", [("url-password", b"p@ss-w0rd")]),
    (b"Authorization: Bearer abcDEF123456789012345", [("authorization", b"abcDEF123456789012345")]),
    (b'{"password":"hunter2"}', [("password", b"hunter2")]),
    (b"user=bob&password=hunter2&x=1", [("password", b"hunter2")]),
    (b"DB_PASSWORD=correct-horse", [("password", b"correct-horse")]),
    (b"password: hunter2\n", [("password", b"hunter2")]),
    (b"<password>hunter2</password>", [("password", b"hunter2")]),
    (b"Server=x;Pwd=hunter2;", [("password", b"hunter2")]),
    (b'"{\\"password\\":\\"hunter2\\"}"', [("password", b"hunter2")]),
    (b"psql --password=hunter2", [("password", b"hunter2"), ("password", b"hunter2")]),
    (b"ALTER ROLE app PASSWORD 'hunter2'", [("sql-password", b"hunter2")]),
    (b"ALTER ROLE app WITH ENCRYPTED\nPASSWORD\n$$hunter2$$", [("sql-password", b"hunter2")]),
    (b"CREATE USER x IDENTIFIED BY 'hun''ter2'", [("sql-password", b"hun''ter2")]),
    (b'IDENTIFIED WITH caching_sha2_password BY "hunter2"', [("sql-password", b"hunter2")]),
    (b"h: " + HASH, [("password-hash", HASH)]),
    (b"AccountKey=" + b"Ab1+" * 21 + b"Zz==;", [("azure-storage-key", b"Ab1+" * 21 + b"Zz==")]),
]

NOT_FOUND: list[bytes] = [
    b"",
    b"the quick brown fox",
    b"4111 1111 1111 1112",  # no Luhn
    b"1111 1111 1111 1117",  # no issuer
    b"0.4111111111111111",
    b"A4111111111111111",
    b"4111111111111111111111",
    b"1700000000000 1700000000000000",  # times
    b"DE89370400440532013001",
    b"000-12-3456 666-12-3456 900-12-3456 123-00-6789 123-45-0000",
    b"2024-01-05T10:11:12Z 2024-123-45-6789",
    b"icon@2x.png foo@bar .@example.com",
    b"+0100 1+1 a+12345678901",
    b"529.982.247-26",
    b"943 476 5918",
    b"12345678A",
    b"AKIAIOSFODNN7",
    b"ghp_short",
    b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    b"https://example.com:8443/a@b",
    b"postgres://$USER:$PASSWORD@db",
    b'"password": null, "password": "", "password": "string"',
    b"password=$PASSWORD password: ${{ secrets.DB }} password = getpass()",
    b"password=settings.db.password",
    b"Please enter your password: it must be long",
    b"PWD=/home/user",
    b'"token": "next", "secret_name": "db", next_page_token=aaaaaaaaaaaaaaaaaaaa',
    b"https://example.com/reset-password?next=/home",
    b"550e8400-e29b-41d4-a716-446655440000 d41d8cd98f00b204e9800998ecf8427e",
]
