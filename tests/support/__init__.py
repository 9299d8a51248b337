"""What the tests share: small models and checkpoints, servers that go wrong, and the installed command."""
