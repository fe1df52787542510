/*
 * Grants, spares, fencing and sealing. The promises by number, the rules, what is modelled and what is not, and what
 * was found: docs/design/seal-and-switch.md. Run by docs/design/models/check.
 *
 * Nobody has a clock here: every step may be taken at any time or never. So a node, a writer or an index server that
 * is down, paused, cut off or slow, for as long as one likes, is one that takes no step; a timeout is a choice; a
 * message that is late is a step that comes late, and one that is lost a step that is not taken. Only what loses
 * something is an event of its own: Faults.
 *
 * RECORDS, FAULTS, SHRINK and TWICE set the scene, SEAL_LONGEST is a rule that is as good, BYTES_ONLY leaves out an
 * assertion. Every other -DNAME switches a rule off: such a variant must violate an assertion.
 */

#ifndef RECORDS
#define RECORDS 2   /* that the writer is to store, in order */
#endif
#ifndef FAULTS
#define FAULTS 2    /* of all kinds together */
#endif

/*
 * Segment s has the copies 2s and 2s + 1:
 *   0: nodes 0 and 1, the current grant    1: nodes 1 and 2, the spare    2: node 2 alone, granted when asked for
 * -DSHRINK: there is no spare, and the writer goes on in 2. -DTWICE: from 0 to 1, and from there to 2.
 */
#if defined(SHRINK)
#define next_of(s) 2
#define last_segment 2
#elif defined(TWICE)
#define next_of(s) ((s) + 1)
#define last_segment 2
#else
#define next_of(s) 1
#define last_segment 1
#endif
#define NOWHERE 3
#define COPIES 5
#define segment_of(c) ((c) / 2)
#define node_of(c) (((c) + 1) / 2)

typedef Copy {
  bit listed;       /* in the segment's row */
  byte length;      /* records written here, a prefix of the segment */
  byte stable;      /* of them on stable storage, as a reply to a flush or fence may have said */
  byte answered;    /* appends acknowledged: replies that the writer may have seen */
#ifdef FLUSH_WITHOUT_LENGTH
  byte flushed;     /* what the writer takes for stable */
#endif
  bit fenced;       /* a higher generation is persisted here */
  bit torn;         /* its host lost power while it was open: it may have lost its end, and knows that */
  bit closed;       /* sealed */
  bit freed;
  bit told;         /* the index knows that it is fenced, and its length. In memory */
  bit was_fenced;   /* ghost: told to be, and no restart forgets it */
  bit was_whole;    /* ghost: sealed at the length recorded then */
  bit hurt;         /* ghost: bytes were lost here */
};
Copy copy[COPIES];
bit lost[3];        /* nodes */

mtype = { ABSENT, OPEN, SEALED, FREEING };

typedef Row {       /* what the index server has stored: survives its process */
  mtype state;
  bit synced;       /* on stable storage: survives its host */
  bit lone;         /* known to have one copy: its bytes are reported as at risk */
  byte length;      /* of a sealed one */
  byte committed;   /* records that extents point at. A commit is synced */
};
Row row[3];
bit session = 1;    /* the writer's lease has not run out */
bit unsure;         /* the index server has restarted and not synced what it found */

byte current;              /* the segment that the writer appends to; it has sent all it has to every copy */
byte first[3];             /* the record that the segment begins with */
bit given_up[3];
bit has_lone;              /* the grant of segment 2 has arrived */
byte placed;               /* records 1 .. placed are acknowledged by every copy */
byte fsynced;              /* records 1 .. fsynced by an fsync */
byte place[RECORDS + 1];   /* where each lies */

byte faults = FAULTS;
bit may_lose_node = 1;

#define a(s) copy[2 * (s)]
#define b(s) copy[2 * (s) + 1]
#ifdef LONE_SPARE
#define both(s) ((s) == 0)
#define b_alone(s) ((s) == 1)
#else
#define both(s) ((s) < 2)
#define b_alone(s) false
#endif
#define least(x, y) ((x) < (y) -> (x) : (y))
#define most(x, y) ((x) > (y) -> (x) : (y))
#define by_all(s, what) (both(s) -> least(a(s).what, b(s).what) : (b_alone(s) -> b(s).what : a(s).what))
#define by_any(s, what) (both(s) -> most(a(s).what, b(s).what) : (b_alone(s) -> b(s).what : a(s).what))

/* ---- what must hold */

#define there(c) (copy[c].listed && !lost[node_of(c)])
#define holds(c, at) (there(c) && !copy[c].freed && copy[c].length > (at))
#define held(s, at) (holds(2 * (s), at) || ((s) < 2 && holds(2 * (s) + 1, at)))
#define found(s, at) ((row[s].state == OPEN || (row[s].state == SEALED && row[s].length > (at))) && held(s, at))
#define injuries(s) (a(s).hurt + ((s) < 2 -> b(s).hurt : 0))
#define whole_as_recorded(c) (row[segment_of(c)].state != SEALED || !copy[c].was_whole || \
                              copy[c].length == row[segment_of(c)].length)

hidden byte i, s1, at;  /* of check() and the like; 0 between steps */

inline check() {
  d_step {
    i = 1;
    do
    :: i > placed -> break
    :: else ->
       s1 = place[i];
       assert(s1 != NOWHERE);           /* (1): acknowledged, and never stored */
       at = i - 1 - first[s1];
       if
       :: row[s1].lone && injuries(s1) > 0                /* reported as at risk */
       :: else ->
          if
          :: i <= fsynced ->
             assert(found(s1, at));                       /* (1): whatever loses power, and one node for ever */
             assert(row[s1].committed > at)
          :: i > fsynced && injuries(s1) <= 1 ->
             assert(found(s1, at))                        /* (1): placed, after one injury */
          :: else
          fi
       fi;
       i++
    od;
    s1 = 0;
    do
    :: s1 > last_segment -> break
    :: else ->
       assert(row[s1].state != SEALED || row[s1].committed <= row[s1].length);  /* (3): no extent outside */
       assert(whole_as_recorded(2 * s1));                                       /* (4): copies do not differ */
       if
       :: s1 < 2 -> assert(whole_as_recorded(2 * s1 + 1))
       :: else
       fi;
       s1++
    od;
    i = 0; s1 = 0; at = 0
  }
}

/* Without (2), -DBYTES_ONLY, what follows for the bytes is still seen. */
#ifdef BYTES_ONLY
#define check_fence(c) skip
#else
#define check_fence(c) assert(!copy[c].was_fenced)
#endif

/* ---- nodes: one process for each copy, as copies share nothing but their host's fate */

#ifdef OLD_TOKEN
#define refuses(c) false
#else
#define refuses(c) copy[c].fenced
#endif
#define serves(c) (there(c) && !copy[c].freed)

proctype Node(byte c) {
  do
  /* An append arrives: also one that was on its way when the writer gave up, was paused or died. */
  :: atomic {
       serves(c) && !copy[c].closed && (segment_of(c) == current || given_up[segment_of(c)]) &&
       first[segment_of(c)] + copy[c].length < RECORDS && copy[c].length == copy[c].answered && !refuses(c) ->
       check_fence(c);
       copy[c].length++;
       copy[c].answered++;
       check()
     }
  /* A flush of what is acknowledged. Its answer names the length. (What a disk keeps unasked is in Faults.) */
  :: atomic { serves(c) && copy[c].stable < copy[c].length && copy[c].stable < by_all(segment_of(c), answered) ->
       copy[c].stable = copy[c].length
     }
#ifdef FLUSH_WITHOUT_LENGTH
  :: atomic { serves(c) && copy[c].flushed < copy[c].answered ->
       copy[c].flushed = copy[c].answered;
       copy[c].stable = copy[c].length
     }
#endif
#ifdef FENCE_IN_MEMORY
  :: atomic { copy[c].fenced && !copy[c].closed -> copy[c].fenced = 0 }  /* its process is killed */
#endif
  od
}

/* ---- the writer */

#ifdef ACK_AFTER_ONE
#define acknowledged(s) (first[s] + by_any(s, answered))
#else
#define acknowledged(s) (first[s] + by_all(s, answered))
#endif
#ifdef FLUSH_WITHOUT_LENGTH
#define flush_confirmed(s) by_all(s, flushed)
#else
#define flush_confirmed(s) by_all(s, stable)
#endif

proctype Writer() {
  byte last;
  do
  /* It looks at the replies that have come. What was sent again is placed anew. */
  :: atomic { acknowledged(current) > first[current] && acknowledged(current) > fsynced &&
       place[acknowledged(current)] != current ->
       last = acknowledged(current);
       placed = most(placed, last);
       do
       :: last == first[current] || last == fsynced -> break
       :: else -> place[last] = current; last--
       od;
       last = 0;
       check()
     }
  /* A broken connection, an error, or no reply in time: on in the spare, without a call to the index. */
  :: atomic { current != last_segment && fsynced < RECORDS && (next_of(current) != 2 || has_lone) ->
       given_up[current] = 1;
       if
#ifdef NO_RESEND
       :: first[next_of(current)] = RECORDS - 1  /* not what was on its way */
#else
       :: first[next_of(current)] = placed       /* what is not placed is sent again */
       :: first[next_of(current)] = fsynced      /* also what a silent copy cannot flush any more */
#endif
       fi;
       current = next_of(current);
       check()
     }
  /* fsync: every copy has flushed it, and its extent is in the index server's synced journal. */
  :: atomic { fsynced < placed && row[place[fsynced + 1]].committed > fsynced - first[place[fsynced + 1]] &&
       flush_confirmed(place[fsynced + 1]) > fsynced - first[place[fsynced + 1]] ->
       fsynced++;
       check()
     }
  od
}

/* ---- the index server: one process for each segment */

#define to_fence(s) (row[s].state == OPEN && (given_up[s] || !session))
#define to_tell(c) (there(c) && !copy[c].told)
#define answers(c) (there(c) && copy[c].told)
#define silent(c) (there(c) && !copy[c].told)
#ifdef TRUST_TORN
#define sound(c) answers(c)
#else
#define sound(c) (answers(c) && !copy[c].torn)
#endif
#define some(s, are) (are(2 * (s)) || ((s) < 2 && are(2 * (s) + 1)))
#define two(s, are) ((s) < 2 && are(2 * (s)) && are(2 * (s) + 1))
#define shortest(s, are) (two(s, are) -> least(a(s).length, b(s).length) : (are(2 * (s)) -> a(s).length : b(s).length))
#define longest(s, are) (two(s, are) -> most(a(s).length, b(s).length) : (are(2 * (s)) -> a(s).length : b(s).length))
#if defined(SEAL_WITHOUT_ANSWER)
#define may_decide(s) to_fence(s)
#else
#define may_decide(s) (to_fence(s) && some(s, answers) && \
                       (!some(s, silent) || (some(s, sound) && longest(s, answers) >= row[s].committed)))
#endif
#ifdef SEAL_BEFORE_SYNC
#define for_good(s) true
#else
#define for_good(s) (row[s].synced || unsure)
#endif
#define to_seal(c) (row[segment_of(c)].state == SEALED && for_good(segment_of(c)) && there(c) && !copy[c].closed)
#ifdef COMMIT_UNCHECKED
#define fits(s) (first[s] + row[s].committed < RECORDS)
#else
#define fits(s) (row[s].state == OPEN || row[s].committed < row[s].length)
#endif
#define next_record(s) (first[s] + row[s].committed + 1)

/* The journal has one order, so a sync covers all that was stored before. */
inline sync() {
  row[0].synced = 1; row[1].synced = 1; row[2].synced = 1;
  unsure = 0
}

inline fence(c) {
#ifndef NO_FENCE
  copy[c].fenced = 1;
#endif
  copy[c].was_fenced = 1;
  copy[c].stable = copy[c].length
}

inline seal(c, other) {
  fence(c);
  copy[c].closed = 1;
  copy[c].torn = 0;
  if
  :: copy[c].length >= row[s].length ->
     copy[c].length = row[s].length;
     copy[c].stable = row[s].length;
     copy[c].was_whole = 1
#ifdef DROP_SHORT
  :: copy[c].length < row[s].length && s < 2 && there(other) && copy[other].was_whole ->
     copy[c].listed = 0;
     copy[c].freed = 1
#endif
  :: else  /* behind: it stays, as far as it goes, until a whole copy has been made from another */
  fi
}

inline free(c) {
  copy[c].freed = 1;
  copy[c].length = 0;
  copy[c].told = 0;
  copy[c].torn = 0
}

proctype Index(byte s) {
  byte length;
  do
  /* A commit arrives, for an fsync or not. */
  :: atomic { session && (row[s].state == OPEN || row[s].state == SEALED) && placed >= next_record(s) && fits(s) &&
       (place[next_record(s)] == s || (s == current && next_record(s) <= fsynced)) ->
       row[s].committed++;
       sync();
       check()
     }
  :: atomic { !row[s].synced -> sync() }

  /* A grant of one copy, where no nodes are left for all: that it is one copy is recorded before it is given. */
  :: atomic { s == 2 && next_of(current) == 2 && session && row[s].state == ABSENT ->
       row[s].state = OPEN;
       row[s].lone = 1;
       row[s].synced = 0;
#ifdef GRANT_BEFORE_SYNC
       has_lone = 1
#endif
     }
  :: atomic { s == 2 && !has_lone && row[s].state == OPEN && row[s].synced -> has_lone = 1 }
  /* A node lists a block that no row names. */
  :: atomic { s == 2 && row[s].state == ABSENT && current == 2 && !a(s).freed -> a(s).freed = 1; check() }

  /* The session's lease runs out: the writer is dead, or paused and will be back. */
  :: atomic { s == 0 && session -> session = 0 }
  /* What it had acknowledged and did not commit is rolled forward, from the records. */
  :: atomic { !session && row[s].state == SEALED && row[s].committed < row[s].length ->
       row[s].committed = row[s].length;
       sync();
       check()
     }

  /* A copy is fenced, and its answer arrives. (Were the answer lost, it could do less than one that is not fenced.) */
  :: atomic { to_fence(s) && to_tell(2 * s) -> fence(2 * s); a(s).told = 1 }
  :: atomic { s < 2 && to_fence(s) && to_tell(2 * s + 1) -> fence(2 * s + 1); b(s).told = 1 }
  /* The length is decided and stored. */
  :: atomic { may_decide(s) ->
       if
#ifdef SEAL_LONGEST
       :: some(s, answers) -> length = longest(s, answers)
#else
       :: some(s, sound) -> length = shortest(s, sound)
       :: !some(s, sound) && some(s, answers) -> length = longest(s, answers)
#endif
       :: !some(s, answers) -> length = 0
       fi;
#ifndef SEAL_UNCOMMITTED
       length = most(length, row[s].committed);
#endif
       row[s].state = (length == 0 -> FREEING : SEALED);
       row[s].length = length;
       row[s].synced = 0;
       length = 0;
       a(s).told = 0;
       if
       :: s < 2 -> b(s).told = 0
       :: else
       fi;
       check()
     }
  /* Copies are sealed, longer ones cut. One that was silent until now is fenced first. */
  :: atomic { to_seal(2 * s) -> seal(2 * s, 2 * s + 1); check() }
  :: atomic { s < 2 && to_seal(2 * s + 1) -> seal(2 * s + 1, 2 * s); check() }
#ifdef FREE_UNCOMMITTED
  :: atomic { row[s].state == SEALED && row[s].committed == 0 -> row[s].state = FREEING; row[s].synced = 0; check() }
#endif
  :: atomic { row[s].state == FREEING && row[s].synced && !a(s).freed ->
       free(2 * s);
       if
       :: s < 2 -> free(2 * s + 1)
       :: else
       fi;
       check()
     }
  od
}

/* ---- what breaks */

inline cut_power(c) {
  if
  :: copy[c].listed && !copy[c].fenced && !copy[c].closed && !copy[c].freed ->
     copy[c].torn = 1;
     do
     :: copy[c].length > copy[c].stable -> copy[c].length--; copy[c].hurt = 1
     :: break
     od
  :: else
  fi
}

inline lose(c) {
  copy[c].hurt = 1;
  copy[c].length = 0;
  copy[c].told = 0;
  copy[c].torn = 0;
  copy[c].was_whole = 0
}

#define at_stake(c) (copy[c].length > copy[c].stable && !lost[node_of(c)])

inline forget() {
  copy[0].told = 0; copy[1].told = 0; copy[2].told = 0; copy[3].told = 0; copy[4].told = 0
}

inline go_back(s) {
  if
  :: !row[s].synced && row[s].state == OPEN -> row[s].state = ABSENT; row[s].lone = 0
  :: !row[s].synced && row[s].state != OPEN -> row[s].state = OPEN; row[s].length = 0
  :: else
  fi;
  row[s].synced = 1
}

proctype Faults() {
  do
  :: atomic { faults > 0 && at_stake(0) -> faults--; cut_power(0); check() }
  :: atomic { faults > 0 && (at_stake(1) || at_stake(2)) -> faults--; cut_power(1); cut_power(2); check() }
  :: atomic { faults > 0 && (at_stake(3) || at_stake(4)) -> faults--; cut_power(3); cut_power(4); check() }
  :: atomic { faults > 0 && may_lose_node ->
       faults--;
       may_lose_node = 0;
       if
       :: lost[0] = 1; lose(0)
       :: lost[1] = 1; lose(1); lose(2)
       :: lost[2] = 1; lose(3); lose(4)
       fi;
       check()
     }
  /* The index server's process is killed. Its successor syncs the journal before it acts on it. */
  :: atomic { faults > 0 ->
       faults--;
       forget();
#ifdef NO_SYNC_AT_START
       unsure = 1
#else
       sync()
#endif
     }
  /* Its host loses power. */
  :: atomic { faults > 0 -> faults--; forget(); go_back(0); go_back(1); go_back(2); unsure = 0; check() }
  od
}

init {
  atomic {
    row[0].state = OPEN;
    row[1].state = (next_of(0) == 1 -> OPEN : ABSENT);
    row[2].state = ABSENT;
    sync();
    copy[0].listed = 1;
    copy[1].listed = 1;
#ifndef LONE_SPARE
    copy[2].listed = 1;
#endif
    copy[3].listed = 1;
    copy[4].listed = 1;
    do
    :: i > RECORDS -> break
    :: else -> place[i] = NOWHERE; i++
    od;
    i = 0;
    run Node(0); run Node(1);
    run Index(0);
    run Writer();
    run Faults();
#ifndef SHRINK
    run Node(2); run Node(3);
    run Index(1);
#endif
#if defined(SHRINK) || defined(TWICE)
    run Node(4);
    run Index(2)
#endif
  }
}
