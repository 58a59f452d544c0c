"""What installs and tries the system; nothing of it runs afterwards."""
