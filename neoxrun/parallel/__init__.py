"""Process groups, parallel layers and the transfers between ranks."""
