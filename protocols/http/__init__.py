"""HTTP requests and answers: what they ask for, what they carry, and how that is put on record. Sans-io."""
