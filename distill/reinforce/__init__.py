"""Multi-modal reinforced training: what teachers and captioners know about each picture, stored once, read for ever."""
