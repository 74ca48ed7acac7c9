/*
 * How the C and C++ files of this crate report a failure to Rust. failure.rs has the same struct and
 * numbers.
 */
#ifndef PHOTOSEARCH_FAILURE_H
#define PHOTOSEARCH_FAILURE_H

enum photosearch_kind {
    PHOTOSEARCH_OK = 0,
    /* The file violates its format, or data of the picture are missing. */
    PHOTOSEARCH_DAMAGED = 1,
    /* The file is valid, but of a variant that is not read. */
    PHOTOSEARCH_UNSUPPORTED = 2,
    /* The library would have taken more memory than the limit. */
    PHOTOSEARCH_TOO_MUCH_MEMORY = 3,
    /* The system has no memory left. */
    PHOTOSEARCH_OUT_OF_MEMORY = 4,
    /* `stop` returned non-zero. */
    PHOTOSEARCH_STOPPED = 5,
};

struct photosearch_failure {
    int kind;
    /* What is wrong, often in the library's words; may be empty for the last three kinds. Ends in a 0. */
    char message[256];
};

/* Called from time to time with `context`. Returns non-zero if the caller wants the work to end. */
typedef int (*photosearch_stop)(void *context);

#endif
