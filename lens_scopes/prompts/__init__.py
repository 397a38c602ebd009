"""Text, chats and token ids as prompts."""
